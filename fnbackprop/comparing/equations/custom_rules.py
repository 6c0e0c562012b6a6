"""A user's own rule against the derivative of the function that it belongs to, its primal.

That is JAX's, or where JAX refuses to differentiate the primal (a kernel of Pallas), differences of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.avals import is_inexact
from fnbackprop.jaxprs.graph import holds
from fnbackprop.jaxprs.limited_loops import TooManyIterations
from fnbackprop.jaxprs.views import Call

from ..arrays import array_norm, to_float64
from ..diagnosis import diagnose
from ..program import first_line
from ..results import RULE_AND_PRIMAL, Agreement, Cotangent, EquationComparison, Verdict
from ..tolerance import NOISE_LIMIT, facts_of_equation, rounding_floor
from .check import COMPILED, EquationCheck, Evidence
from .equation_differences import differences
from .estimators import estimator_verdict
from .primal_slopes import PrimalSlope, primal_slope
from .verdict import (
    Finding,
    comparison_of,
    cotangent_hypothesis,
    difference_of,
    exactly,
    failed,
    sizes_of,
    users_name,
)
from .walk import Location

UNSETTLED = 0.05  # so far a rule may be from the slope of a solver of whose solution nothing more can be known
FORWARD_SLACK = 4.0  # another order of operations in the forward is no other value


class CustomRuleVerdict(NamedTuple):
    """What there is to say of a user's rule.

    Attributes:
      wrong: the operands whose cotangent is wrong. replaced: what it replaces on purpose. notes: what else to know.
      follows: whether it agrees with JAX's derivative of the primal, and so with the rules of users in that.
      by_differences: whether it was held against differences, since JAX does not differentiate the primal.
    """

    wrong: list[EquationComparison] = []
    replaced: list[str] = []
    notes: list[str] = []
    follows: bool = False
    by_differences: bool = False


def custom_rule_verdict(
    check: EquationCheck,
    operands: Sequence[Any],
    cts: Sequence[Any],
    kind: Cotangent,
    location: Location,
    intended: Sequence[str],
    reached: Sequence[bool] | None = None,
) -> CustomRuleVerdict:
    """A user's rule against the derivative of its primal.

    reached: of each cotangent, whether the program has one that is not zero; by differences no others are tried, for a
    solver's statistics have no derivative, though they move.
    """
    name, declared = f"{users_name(check.equation)} at {location.line}", users_name(check.equation) in intended
    try:
        evidence = Evidence(check, operands, cts, COMPILED.both(check, operands, cts), kind, location)
    except Exception as error:  # JAX refuses to differentiate the primal, as that of a kernel
        if reached is not None:
            cts = [ct if on else jnp.zeros_like(ct) for ct, on in zip(cts, reached, strict=True)]
        return _by_differences(check, operands, cts, kind, location, name, first_line(error), intended)
    floor = rounding_floor(facts_of_equation(check.equation))
    suspects = [i for i, pair in enumerate(evidence.pairs) if not pair.error <= floor]
    exact, wrong, left_out, follows = exactly(evidence) if suspects else None, [], [], True
    for i in suspects:
        difference = difference_of(evidence, i, exact, floor)
        broken = not np.isfinite(to_float64(evidence.pairs[i].second)).all()
        if difference.finding is Finding.ROUNDING and not broken:
            continue
        follows = False
        ours, theirs = difference.ours, difference.theirs
        if array_norm(theirs) == 0 and array_norm(ours) > 0 and not broken and not declared:
            estimator = estimator_verdict(evidence, i, ours)
            if not estimator.error:
                return CustomRuleVerdict(replaced=[f"{name}: {estimator.said}"])
            reason = f"{Finding.CUSTOM_RULE.value}, {estimator.said}"
            wrong.append(failed(evidence, i, reason, error=estimator.error, allowed=estimator.allowed))
            continue
        opinion = differences(evidence, i, ours, theirs)
        trusted = opinion.who in (Agreement.MANUAL, Agreement.BOTH) or opinion.shape is not Verdict.PASS
        if trusted or broken and opinion.who is not Agreement.AUTOMATIC:
            continue
        if declared:
            return CustomRuleVerdict(replaced=[f"{name}: its rule differs from its primal's derivative, as declared"])
        if kind is Cotangent.GAUSSIAN and check.equation.params.get("symbolic_zeros") and array_norm(ours) == 0:
            left_out.append(str(check.targets[i]))
            continue
        sizes = sizes_of(check.equation, check.targets[i])
        cause = diagnose(ours, theirs, difference.noise, sizes, RULE_AND_PRIMAL)
        cause = cause or cotangent_hypothesis(evidence, i, 10 * floor)
        if difference.finding in (Finding.DIFFERS, Finding.ROUNDING):
            difference = difference._replace(finding=Finding.CUSTOM_RULE)
        wrong.append(comparison_of(evidence, i, difference, cause, opinion))
    said = f"{name}: no cotangent for operands {', '.join(left_out)}, by a rule that is told what moves"
    return CustomRuleVerdict(wrong, notes=[said] if left_out else [], follows=follows)


def has_another_forward(check: EquationCheck, operands: Sequence[Any]) -> bool:
    """Whether the forward of a user's rule computes other outputs than the function, its primal."""
    try:
        error = COMPILED.forward_error(check, operands)
    except Exception:  # the user's function may refuse to be traced again; what it gives is then in the contract alone
        return False
    return error > FORWARD_SLACK * rounding_floor(facts_of_equation(check.equation))


def wrong_types(evidence: Evidence) -> list[EquationComparison]:
    """The operands for which a user's rule gives no floating cotangent, though they are floating."""
    evidence, wrong = evidence._replace(check=evidence.check._replace(primal=True)), []
    for i, position in enumerate(evidence.check.targets):
        dtype, own = evidence.pairs[i].second.dtype, evidence.operands[position].dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            given = "bool or float0" if dtype == np.bool_ else dtype
            said = f"the cotangent that it returns is {given} for an operand of {own}"
            wrong.append(failed(evidence, i, f"{said}; a cotangent has the type of its operand"))
    return wrong


def _by_differences(
    check: EquationCheck, operands: Sequence[Any], cts: Sequence[Any], kind: Cotangent, location: Location,
    name: str, refused: str, intended: Sequence[str],
) -> CustomRuleVerdict:  # fmt: skip
    """A user's rule against differences of its primal, which JAX does not differentiate."""
    outputs = filter(is_inexact, COMPILED.values(check.equation, operands))
    # A buffer that was not filled up may hold infinities, of which nothing can be said.
    cts = [jnp.where(jnp.isfinite(y), ct, jnp.zeros_like(ct)) for ct, y in zip(cts, outputs, strict=True)]
    pairs = COMPILED.both(check._replace(primal=False), operands, cts)  # both sides are the user's rule
    evidence, wrong, exact = Evidence(check, operands, cts, pairs, kind, location), [], []
    for i, alike in _by_variable(check).items():
        try:
            found, said = _of_solution(evidence, alike)
        except Exception as error:  # the user's function may refuse anything
            said = f"{refused}; nor by differences: {first_line(error)}"
            return CustomRuleVerdict(notes=[f"{name} was not compared with its primal: {said}"])
        if said:
            exact.append(f"{name}: its rule is that of an exact solution, {said}")
        elif not found.agrees and found.allowed < NOISE_LIMIT:
            by = f"by differences (JAX refuses to differentiate the primal): {found.in_words()}"
            reason = f"{Finding.CUSTOM_RULE.value}, {by}"
            wrong.append(failed(evidence, i, reason, error=found.error, allowed=found.allowed))
    if wrong and users_name(check.equation) in intended:
        return CustomRuleVerdict(replaced=[f"{name}: its rule differs from its primal's derivative, as declared"])
    return CustomRuleVerdict(wrong, replaced=[] if wrong else exact, follows=bool(exact), by_differences=True)


def _of_solution(evidence: Evidence, alike: Sequence[int]) -> tuple[PrimalSlope, str]:
    """A rule against its primal, and in words why it differs from that if it is the rule of the exact solution: it
    agrees with the primal once its loops go on until nothing changes."""
    try:
        steps = primal_slope(evidence, alike)
    except TooManyIterations:
        solution = primal_slope(evidence, alike, to_the_end=True)
        if not solution.allowed < NOISE_LIMIT:
            raise
        gone_on = f"{solution.error:.1e} off the slope of its steps, by differences, if these are ended at some time"
        return solution, gone_on if solution.agrees else ""
    if steps.agrees or not holds(Call.of(evidence.check.equation).body, {"while"}):
        return steps, ""
    off = f"{steps.error:.1e} off the slope of its steps, by differences"
    solution = primal_slope(evidence, alike, to_the_end=True)
    if solution.allowed < NOISE_LIMIT:
        gone_on = f"{solution.error:.1e} off once they go on until nothing changes"
        return solution, f"{off}, and {gone_on}" if solution.agrees else ""
    known = f"{off}, which is all that is known of it: going on, its steps do not settle"
    return steps, known if steps.error < UNSETTLED else ""


def _by_variable(check: EquationCheck) -> dict[int, list[int]]:
    """The active operands that are one variable, by the first of them: `custom_root` hands it to the function and to
    the solver, and only together do they move the root."""
    groups: dict[Any, list[int]] = {}
    for i, position in enumerate(check.targets):
        groups.setdefault(check.equation.invars[position], []).append(i)
    return {alike[0]: alike for alike in groups.values()}
