"""Where two functions that should have the same gradient part.

Both are walked. Their equations are aligned by primitive and types, as two texts are by a diff; going forward, the
first pair whose values differ is found, and going backward, the first whose cotangents do.
"""

import difflib
import enum
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fnbackprop.jaxprs.avals import aval_of, is_inexact, output_avals
from fnbackprop.jaxprs.lists import merge, present

from ..arrays import array_norm, quotient, relative_error, to_float64
from ..diagnosis import diagnose
from ..program import TracedProgram
from ..results import Cotangent, EquationComparison, EquationKind, Sides, Verdict
from .check import COMPILED, EquationCheck
from .loops import LOOPS
from .walk import Location, Visit, Walker


class AlignedEquation(NamedTuple):
    """One equation of a walk.

    Attributes:
      key: its primitive and types, by which it is aligned.
      values, cotangents: of its floating outputs. given: the cotangents of its operands, None for none.
    """

    key: tuple[str, ...]
    location: Location
    values: list[Any]
    cotangents: list[Any]
    given: list[Any]


class Compared(enum.Enum):
    """What of a pair of equations is compared; the value names the field of AlignedEquation."""

    VALUES = "values"
    COTANGENTS = "cotangents"
    GIVEN = "given"


def walked_equations(traced: TracedProgram) -> list[AlignedEquation]:
    """The equations that a gradient flows through, in the order of the program."""
    kept: list[AlignedEquation] = []

    def keep(visit: Visit, cts: list[Any]) -> list[Any]:
        equation, active, cts = visit.equation, visit.step.active, present(cts)
        check = EquationCheck(equation, active, False, traced.users_mode)
        given = merge(active, [pair.second for pair in COMPILED.both(check, visit.operands, cts)])
        key = visit.name, *(str(aval) for aval in output_avals(equation))
        floating = [y for y in visit.outputs if is_inexact(aval_of(y))]
        kept.append(AlignedEquation(key, visit.location, floating, cts, given))
        return given

    Walker(COMPILED.values, keep, LOOPS).run(traced)
    return kept[::-1]


def first_difference(
    names: tuple[str, str], traced: tuple[TracedProgram, TracedProgram], allowed: float
) -> tuple[list[EquationComparison], list[str]]:
    """The equation at which two programs part, or none; and notes."""
    sides = Sides(*names)
    walked = [walked_equations(one) for one in traced]
    notes = [f"no gradient flows through {name}" for name, one in zip(sides, walked, strict=True) if not one]
    keys = ([equation.key for equation in one] for one in walked)
    blocks = difflib.SequenceMatcher(None, *keys, autojunk=False).get_matching_blocks()
    pairs = [(walked[0][b.a + k], walked[1][b.b + k]) for b in blocks for k in range(b.size)]
    return _where_they_part(pairs, allowed, sides), notes


def _where_they_part(
    pairs: Sequence[tuple[AlignedEquation, AlignedEquation]], allowed: float, sides: Sides
) -> list[EquationComparison]:
    """The first pair whose values differ, else the first, from the end, whose cotangents differ; or none."""
    for one, two in pairs:
        if found := _difference(one, two, Compared.VALUES, allowed, sides):
            return [found]
    agreed = "the end"
    for one, two in reversed(pairs):
        if found := _difference(one, two, Compared.COTANGENTS, allowed, sides, f"; from {agreed} on they agree"):
            return [found]
        agreed = one.location.line
    for one, two in pairs:  # the nearest to the inputs tells most
        if found := _difference(one, two, Compared.GIVEN, allowed, sides):
            return [found]
    return []


def _difference(
    one: AlignedEquation, two: AlignedEquation, what: Compared, allowed: float, sides: Sides, context: str = ""
) -> EquationComparison | None:
    both = zip(getattr(one, what.value), getattr(two, what.value), strict=False)
    for position, (a, b) in enumerate(both):
        if a is None and b is None or (a is not None and b is not None and np.shape(a) != np.shape(b)):
            continue
        a, b = (np.zeros_like(y) if x is None else x for x, y in ((a, b), (b, a)))
        error = relative_error(a, b)
        if error <= allowed or math.isnan(error):
            continue
        said = f"its {what.value} differ from those"
        if what is Compared.GIVEN:
            said = f"the cotangent of its operand {position} differs from that"
        return EquationComparison(
            primitive=one.key[0], name="", where=one.location.line, within=one.location.within, operand=position,
            cotangent=Cotangent.ACTUAL, verdict=Verdict.FAIL,
            reason=f"{said} of {two.key[0]} at {two.location.line}{context}", error=error, allowed=allowed,
            ratio=quotient(array_norm(a), array_norm(b)),
            hypothesis=diagnose(to_float64(a), to_float64(b), allowed / 10, sides=sides),
            kind=EquationKind.TWO_FUNCTIONS,
        )  # fmt: skip
    return None
