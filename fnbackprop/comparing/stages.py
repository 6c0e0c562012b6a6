"""The stages of a comparison, one function each: the same for one function, and for one function against another.

Each reads what earlier stages left in `Work`, and leaves its own results there. In a comparison of two functions the
manual gradient is that of `program`, the automatic one that of `other`; for one function the two are the same program.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fnbackprop.backprop.missing_rule import MissingRule
from fnbackprop.jaxprs.limited_loops import TooManyIterations, present_limits

from .arrays import distance, is_finite
from .equations.alignment import first_difference
from .equations.audit import Audit
from .equations.kinks import NEAR, find_kinks
from .gradient_sources import gradient_function
from .leaves import compare_leaf, data_sizes, leaf_paths, structure_problems
from .manual_alone import of_manual_alone, without_automatic
from .noise import is_finite_in_float64, measured_noise, narrow_noise, plain_value
from .numeric.arbitration import DISPUTED, LeafNumeric, settled, settled_value, unproven, with_differences
from .numeric.differences import Subject, compare_numeric
from .program import Program, first_line, unused_inputs
from .properties import check_contract, check_environment
from .recorded import foreign_notes, traced
from .reference.float64 import is_another_branch, reference_gradients
from .reference.inner_rounding import gradient_noise, value_noise
from .results import Check, EquationComparison, LeafComparison, NumericComparison, Property, Sides, Verdict
from .tolerance import NOISE_LIMIT, Noise, allowed_error, facts_of, rounding_floor

NOT_SMOOTH = (Verdict.KINK, Verdict.JUMP, Verdict.DOMAIN_EDGE, Verdict.UNBOUNDED, Verdict.NON_FINITE)
FLOAT64 = 1e-15  # a unit roundoff below this is that of float64


class Options(NamedTuple):
    """What is asked for; see `pipeline.compare`."""

    directions: int
    leaf_directions: bool | None
    rules: bool
    reference: bool
    environment: bool
    intended: tuple[str, ...]
    seed: int


class Work:
    """A comparison under way.

    Attributes:
      program: whose manual gradient is compared; other: whose automatic gradient it is compared with.
      traced, other_traced: their jaxprs. notes: what else there is to know. facts: those of the coarser one.
      two: whether they are two functions. sides: what the two gradients are called.
      floor, value_floor: the relative error that rounding explains in any case, and in the value.
      refused: whether JAX refuses to differentiate, so that differences alone can tell.
    """

    def __init__(self, program: Program, other: Program, options: Options, say: Callable[[str], None]):
        self.options, self.say, self.two = options, say, program is not other
        self.sides = Sides(program.name, other.name) if self.two else Sides()
        self.program, self.traced, self.notes = traced(program)
        self.other, self.other_traced, notes = traced(other) if self.two else (self.program, self.traced, [])
        self.notes += notes
        both = [facts_of(one) for one in (self.traced, self.other_traced)]
        self.own_facts, self.facts = both[0], max(both, key=lambda facts: facts.roundoff)
        self.floor = max(map(rounding_floor, both))
        self.refused, self.audited = False, 0
        self.value_comparison: LeafComparison
        self.problems: tuple[str, ...] = ()
        self.leaves: tuple[LeafComparison, ...] = ()
        self.equations: list[EquationComparison] = []
        self.numeric: NumericComparison | None = None
        self.contract: tuple[Check, ...] = ()
        self.environment: tuple[Check, ...] = ()
        self.intended, self.audit_notes = list[str](), list[str]()
        self.each: Sequence[LeafNumeric | None] = ()
        self.replaced: Callable[[], Sequence[str]] = tuple
        self.wrong_solves: dict[Any, EquationComparison] = {}

    @property
    def allowed(self) -> list[float]:
        """For each leaf, the relative error that rounding explains."""
        noisy = [allowed_error(self.floor, Noise(noise)) for noise in self.noise[1:]]
        pairs = zip(self.leaves, noisy, strict=True)
        return [leaf.allowed if math.isfinite(leaf.allowed) else bound for leaf, bound in pairs]

    @functools.cached_property
    def manual_noise(self) -> list[float]:
        """The noise of the manual gradient and its value, for the few comparisons that ask for it."""
        return measured_noise(self.program, self.facts, self.manual_function, (self.value, self.manual))

    @property
    def floating_bounds(self) -> list[float]:
        """Those of the floating leaves."""
        pairs = zip(self.leaves, self.allowed, strict=True)
        return [bound for leaf, bound in pairs if leaf.verdict is not Verdict.SKIPPED]


def take_gradients(work: Work) -> None:
    """Both gradients, the function's value by both, and the noise of the automatic ones."""
    work.say("the manual gradient")
    arguments = work.program.inputs, work.program.others, np.float32(1)
    work.manual_function = gradient_function(work.program, "manual")
    limits = present_limits()
    with limits.learning():
        work.value, work.manual = work.manual_function(*arguments)
    work.say("the automatic gradient")
    function, backward = gradient_function(work.other, "automatic"), "automatic"
    try:
        with limits.learning():
            result = function(*arguments)
    except Exception as error:
        if work.two:
            raise
        work.refused, work.sides = True, Sides(automatic="")
        work.notes.append(f"jax.grad refuses: {first_line(error)}")
        function, backward, result = work.manual_function, "manual", (work.value, work.manual)
    work.automatic_value, work.automatic = result
    work.noise = measured_noise(work.other, work.facts, function, result)
    broken = [not is_finite(leaf) for leaf in jax.tree.leaves(result)]
    if any(broken) and function is not work.manual_function:  # what rounding does can be seen in the other alone
        work.noise = [a if odd else b for a, b, odd in zip(work.manual_noise, work.noise, broken, strict=True)]
    if work.facts.roundoff < FLOAT64:
        work.noise = list(map(max, work.noise, narrow_noise(work.other, backward, result)))
    work.value_floor = max(work.floor, 4 * work.noise[0])


def compare_leaves(work: Work) -> None:
    """The value and each leaf of the gradient, manual against the reference."""
    work.value_comparison = compare_leaf(
        "(value)", work.value, work.automatic_value, work.floor, work.noise[0], sides=work.sides
    )
    work.problems = structure_problems(work.manual, work.automatic, work.sides)
    if work.problems:
        return
    references = _references(work)
    work.leaves = _leaves(work, references)
    wrong = any(leaf.verdict is Verdict.FAIL for leaf in work.leaves)
    if wrong and not work.two:
        for i, (leaf, noise) in enumerate(zip(work.leaves, work.manual_noise[1:], strict=True)):
            if noise > NOISE_LIMIT and math.isfinite(leaf.ratio):  # what is left of large numbers that cancel
                work.noise[i + 1] = max(work.noise[i + 1], noise * leaf.ratio)
        work.leaves = _leaves(work, references)
    if wrong and all(reference is None for reference in references):  # which would tell of rounding inside
        if inside := gradient_noise(work.other_traced, work.facts.roundoff):
            work.noise[1:] = [max(noise, inside.get(i, 0.0)) for i, noise in enumerate(work.noise[1:])]
            work.leaves = _leaves(work, references)


def _leaves(work: Work, references: list[Any]) -> tuple[LeafComparison, ...]:
    """The verdict on each leaf."""
    paths, sizes = leaf_paths(work.program, work.automatic), data_sizes(work.program)
    both = jax.tree.leaves(work.manual), jax.tree.leaves(work.automatic)
    unused, leaves = unused_inputs(work.traced), []
    for i, (path, *parts) in enumerate(zip(paths, *both, work.noise[1:], references, strict=True)):
        manual, automatic, noise, reference = parts
        leaf = compare_leaf(path, manual, automatic, work.floor, noise, reference, sizes, work.sides)
        if i in unused and leaf.error == 0 and leaf.norm == 0:
            leaf = dataclasses.replace(leaf, reason="unused: its gradient is exactly zero")
        leaves.append(leaf)
    return tuple(leaves)


def _references(work: Work) -> list[Any]:
    """The gradient in float64, leaf by leaf; None where there is none."""
    traced = work.other_traced
    references: list[Any] = [None] * (len(work.noise) - 1)
    if not work.options.reference or work.refused or work.facts.roundoff < FLOAT64:
        return references
    work.say("the reference in float64")
    active = [i for i, on in enumerate(traced.active) if on]
    value = work.automatic_value if work.two else work.value
    try:
        found = reference_gradients(traced.closed, traced.operands, active, traced.users_mode)
        noise = functools.partial(value_noise, traced, work.facts.roundoff)
        refused = is_another_branch(found[0], value, work.value_floor, noise)
    except Exception as error:  # what is the user's may refuse float64 in any way
        refused = first_line(error)
    if refused:
        work.notes.append(f"no float64 reference: {refused}")
        return references
    for i, reference in zip(active, found[1], strict=True):
        references[i] = reference
    return references


def check_equations(work: Work) -> None:
    """Every rule in place; once more and thoroughly if a leaf is wrong and no equation was found."""
    work.plain_value, work.forwards = None, ()
    if not work.options.rules:
        return
    settings = {"seed": work.options.seed, "intended": work.options.intended, "say": work.say}
    try:
        audit = Audit(work.traced, **settings).run()
        if not work.two and not audit.found and any(leaf.verdict is Verdict.FAIL for leaf in work.leaves):
            audit = Audit(work.traced, thorough=True, **settings).run()
    except MissingRule:
        raise
    except Exception as error:  # the user's code may refuse to be run equation by equation
        work.contract = (Check(Property.RULES, Verdict.SKIPPED, first_line(error)),)
        return
    work.equations, work.audited, work.plain_value = list(audit.found), audit.audited, audit.value
    work.forwards = tuple(audit.forwards)
    work.intended, work.audit_notes, work.wrong_solves = [*audit.replaced], [*audit.notes], audit.wrong_solves
    work.replaced = lambda: [*audit.replaced, *audit.replaced_implicitly]


def check_properties(work: Work) -> None:
    """The contract of a backward pass."""
    work.say("the contract")
    program, plain, floor = work.program, work.plain_value, work.value_floor
    if plain is None or distance(work.value, plain) > floor:
        plain, floor = plain_value(program, work.facts, work.value_floor)
    floors, first = (floor, work.floating_bounds), (work.value, work.manual)
    checks = check_contract(program, work.manual_function, first, plain, floors, work.forwards)
    work.contract = (*checks, *work.contract)


def take_differences(work: Work) -> None:
    """Both gradients against differences of the function; which of them is right, where they differ."""
    options = work.options
    if not options.directions:
        return
    work.say("differences of the function")
    disputed = [] if work.two else [i for i, leaf in enumerate(work.leaves) if leaf.verdict in DISPUTED]
    value = work.value, work.value_floor
    gradients, norms = (work.manual, work.automatic), [leaf.norm for leaf in work.leaves]
    subject = Subject(
        work.program, work.traced, work.own_facts, *gradients, work.allowed, value, options.seed, work.sides, norms
    )
    settings = options.directions, options.leaf_directions, disputed, work.replaced
    take = functools.partial(compare_numeric, subject, *settings)
    try:
        found = take()
    except TooManyIterations as error:
        with present_limits().running_on():
            found = take()
        if found.comparison.verdict is not Verdict.PASS:
            work.numeric = NumericComparison(Verdict.SKIPPED, f"not compared, because {error}", 0, *[math.nan] * 3)
            return
        work.notes.append("numeric: of the function with its loops ended where they do not end by themselves")
    work.numeric, work.intended = found.comparison, found.intended
    work.equations += work.wrong_solves.values()
    broken = work.numeric.verdict is Verdict.FAIL and math.isnan(work.numeric.manual)
    if broken and is_finite_in_float64(work.program, work.own_facts):
        reason = f"the gradient is NaN or infinite in {work.own_facts.dtype} alone: run in float64, it is finite"
        work.numeric = dataclasses.replace(work.numeric, verdict=Verdict.NON_FINITE, reason=reason)
    work.notes += found.notes
    if work.numeric.verdict in NOT_SMOOTH or Verdict.NON_FINITE in (leaf.verdict for leaf in work.leaves):
        work.notes += find_kinks(work.traced) or [NEAR] * (work.numeric.verdict is Verdict.KINK)
    work.each = found.each or [None] * len(work.leaves)
    decides = not work.equations and work.numeric.verdict is not Verdict.FAIL  # a zero that no wrong rule gives
    leaves = with_differences(work.leaves, work.each, found.decided if decides else {})
    work.leaves, notes = settled(leaves, found.each, found.automatic_wrong, work.numeric)
    work.notes += notes


def check_environments(work: Work) -> None:
    """The same gradient in other environments, if asked for."""
    if work.options.environment:
        work.environment = check_environment(work.program, work.traced, work.manual, work.floating_bounds, work.say)


def conclude(work: Work) -> None:
    """Where JAX's value or its refusal leaves the other sources to decide; where two functions part."""
    work.notes += work.audit_notes
    work.notes += [f"checks beside the point were left out, because {said}" for said in present_limits().exceeded]
    if work.two:
        if Verdict.FAIL in (work.value_comparison.verdict, *(leaf.verdict for leaf in work.leaves)):
            names, traced = (work.program.name, work.other.name), (work.traced, work.other_traced)
            try:
                found, notes = first_difference(names, traced, 10 * work.floor)
            except Exception as error:  # JAX may refuse to differentiate an equation of either program by itself
                found, notes = [], [f"the two programs were not aligned by equations: {first_line(error)}"]
            work.equations += found
            work.notes += notes
        return
    work.notes += foreign_notes(work.traced.closed)
    if work.refused:
        work.leaves = tuple(without_automatic(leaf, work.numeric, work.intended, work.audited) for leaf in work.leaves)
        work.value_comparison = of_manual_alone(work.value_comparison)
    work.value_comparison = settled_value(work.value_comparison, work.contract)
    work.leaves = unproven(work.leaves, work.each, unused_inputs(work.traced), work.numeric, work.equations)


STAGES: tuple[Callable[[Work], None], ...] = (
    take_gradients,
    compare_leaves,
    check_equations,
    check_properties,
    take_differences,
    check_environments,
    conclude,
)
