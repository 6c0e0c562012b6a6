"""Two functions that should have the same gradient: whether they have, and where they part.

Both are walked equation by equation. Their equations are aligned by primitive and types, as two texts are by a diff;
going forward, the first pair whose values differ is found, and going backward, the first whose cotangents do.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fnbackprop.jaxprs.avals import aval_of, is_inexact, output_avals

from ..arrays import array_norm, over, to_float64
from ..diagnosis import diagnose
from ..gradient_sources import gradient_function
from ..leaves import compare_leaf, relative_error, rounding_floor
from ..numeric.differences import compare_numeric
from ..program import facts_of, make_program, trace_program
from ..reference.float64 import reference_gradients
from ..results import Comparison, EquationComparison, Verdict
from ..show.status_line import first_line
from .check import COMPILED, EquationCheck
from .walk import Audit, Visit


class Entry(NamedTuple):
    """One equation of a walk: its primitive and types, where it stands, its values, their cotangents, and those that it
    gives to its operands (None for none)."""

    key: tuple[Any, ...]
    line: str
    within: str
    values: list[Any]
    cotangents: list[Any]
    given: list[Any]


class Tape(Audit):
    """A walk that asks nothing but keeps every equation's values and cotangents, in the order of the program."""

    def entries(self) -> list[Entry]:
        self.kept: list[Entry] = []
        self.run()
        return self.kept[::-1]

    def _visit(self, visit: Visit) -> Sequence[Any]:
        outputs = super()._visit(visit)
        visit.outputs = outputs
        return outputs

    def ask(self, visit: Visit, cts: list[Any]) -> list[Any]:
        equation, step = visit.step.equation, visit.step
        floating = [y for y in visit.outputs if is_inexact(aval_of(y))]
        key = equation.primitive.name, *(str(aval) for aval in output_avals(equation))
        found = COMPILED.both(EquationCheck(equation, step.active, False, self.traced.users_mode), visit.operands, cts)
        by_position = dict(zip((i for i, on in enumerate(step.active) if on), found, strict=True))
        given = [by_position[i].second if i in by_position else None for i in range(len(visit.operands))]
        self.kept.append(Entry(key, visit.location.line, visit.location.within, floating, list(cts), given))
        return given


def compare_two(
    fun: Callable, against: Callable, args: Sequence[Any], argnums: Any, has_aux: Any, directions: int, seed: int
) -> Comparison:
    """The manual gradient of `fun` beside the automatic one of `against` at the same arguments; see `compare`."""
    from ..pipeline import leaf_paths, measured_noise, tolerance_in_words

    programs = [make_program(f, args, argnums, has_aux) for f in (fun, against)]
    with jax.default_matmul_precision("highest"):
        records = [trace_program(program) for program in programs]
        facts = [facts_of(one) for one in records]
        coarsest = max(facts, key=lambda one: one.roundoff)
        floor = max(map(rounding_floor, facts))
        program = programs[0]
        manual_value, manual = gradient_function(program, "manual")(program.inputs, program.others, np.float32(1))
        automatic_function = gradient_function(programs[1], "automatic")
        result = automatic_function(program.inputs, program.others, np.float32(1))
        noise = measured_noise(programs[1], coarsest, automatic_function, result)
        notes: list[str] = []
        references = _references(records[1], len(noise) - 1, notes)
        flat = (jax.tree.leaves(manual), jax.tree.leaves(result[1]))
        parts = zip(leaf_paths(program, result[1]), *flat, noise[1:], references, strict=True)
        leaves = tuple(compare_leaf(path, a, b, floor, moved, ref) for path, a, b, moved, ref in parts)
        numeric = None
        if directions:
            allowed = [leaf.allowed if math.isfinite(leaf.allowed) else 0.0 for leaf in leaves]
            differences = compare_numeric(
                program, records[0], facts[0], manual, result[1], directions=directions, seed=seed, allowed=allowed,
                value=(manual_value, max(floor, 4 * noise[0])), leaves=False,
            )  # fmt: skip
            numeric = differences.comparison
            notes += differences.notes
        value = compare_leaf("(value)", manual_value, result[0], floor, noise[0])
        equations: tuple[EquationComparison, ...] = ()
        if Verdict.FAIL in (value.verdict, *(leaf.verdict for leaf in leaves)):
            tapes = [Tape(one).entries() for one in records]
            notes += [f"no gradient flows through {p.name}" for p, t in zip(programs, tapes, strict=True) if not t]
            equations = where_they_part(*tapes, 10 * floor)
    return Comparison(
        name=f"{program.name} against {programs[1].name}", value=value, leaves=leaves, numeric=numeric, problems=(),
        tolerance=tolerance_in_words(coarsest), seed=seed, equations=equations, notes=tuple(notes),
        sides=(program.name, programs[1].name),
    )  # fmt: skip


def _references(traced: Any, count: int, notes: list[str]) -> list[Any]:
    references: list[Any] = [None] * count
    active = [i for i, on in enumerate(traced.active) if on]
    try:
        _, found = reference_gradients(traced.closed, traced.operands, active, traced.users_mode)
    except Exception as error:  # what is the user's may refuse float64 in any way
        notes.append(f"no float64 reference: {first_line(error)}")
        return references
    for i, reference in zip(active, found, strict=True):
        references[i] = reference
    return references


def where_they_part(ours: list[Entry], theirs: list[Entry], allowed: float) -> tuple[EquationComparison, ...]:
    """The first aligned pair whose values differ, else the first, from the end, whose cotangents differ; or none."""
    blocks = difflib.SequenceMatcher(
        None, [e.key for e in ours], [e.key for e in theirs], autojunk=False
    ).get_matching_blocks()
    pairs = [(ours[b.a + k], theirs[b.b + k]) for b in blocks for k in range(b.size)]
    for one, two in pairs:
        found = _apart(one, two, "values", allowed, "")
        if found:
            return (found,)
    agreed = "the end"
    for one, two in reversed(pairs):
        found = _apart(one, two, "cotangents", allowed, f"; from {agreed} on they agree")
        if found:
            return (found,)
        agreed = one.line
    found = (_apart(one, two, "given", allowed, "") for one, two in pairs)  # the nearest to the inputs tells most
    return tuple(filter(None, found))[:1]


def _apart(one: Entry, two: Entry, what: str, allowed: float, context: str) -> EquationComparison | None:
    other = f"{two.key[0]} at {two.line}"
    for position, (a, b) in enumerate(zip(getattr(one, what), getattr(two, what), strict=False)):
        if a is None and b is None or (a is not None and b is not None and np.shape(a) != np.shape(b)):
            continue
        a, b = (np.zeros_like(y) if x is None else x for x, y in ((a, b), (b, a)))
        error = relative_error(a, b)
        if error <= allowed or math.isnan(error):
            continue
        said = (
            f"the cotangent of its operand {position} differs from that"
            if what == "given"
            else f"its {what} differ from those"
        )
        reason = f"{said} of {other}{context}"
        return EquationComparison(
            primitive=one.key[0], name="", where=one.line, within=one.within, operand=position, cotangent="actual",
            verdict=Verdict.FAIL, reason=reason, error=error, allowed=allowed, ratio=over(array_norm(a), array_norm(b)),
            hypothesis=diagnose(to_float64(a), to_float64(b), allowed / 10),
        )  # fmt: skip
    return None
