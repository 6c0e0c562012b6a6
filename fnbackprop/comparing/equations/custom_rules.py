"""A user's own rule against the derivative of the function that it belongs to, its primal.

That is JAX's, or where JAX refuses to differentiate the primal (a kernel of Pallas), differences of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.avals import is_inexact
from fnbackprop.jaxprs.graph import holds
from fnbackprop.jaxprs.views import Call

from ..arrays import array_norm, to_float64
from ..diagnosis import diagnose
from ..program import first_line
from ..results import Agreement, Cotangent, EquationComparison, Verdict
from ..tolerance import NOISE_LIMIT, facts_of_equation, rounding_floor
from .check import COMPILED, EquationCheck, Evidence
from .equation_differences import differences, differences_in_own_precision
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

SOLVER = 0.05  # so far a solver's own slope may be from that of the solution at which it stops early
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
    name = f"{users_name(check.equation)} at {location.line}"
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
        opinion = differences(evidence, i, ours, theirs)
        trusted = opinion.who in (Agreement.MANUAL, Agreement.BOTH) or opinion.shape is not Verdict.PASS
        if trusted or broken and opinion.who is not Agreement.AUTOMATIC:
            continue
        if users_name(check.equation) in intended:
            return CustomRuleVerdict(replaced=[f"{name}: its rule differs from its primal's derivative, as declared"])
        if array_norm(theirs) == 0 and array_norm(ours) > 0:
            return CustomRuleVerdict(
                replaced=[f"{name}: its primal has no derivative, its rule gives one (straight through)"]
            )
        if kind is Cotangent.GAUSSIAN and check.equation.params.get("symbolic_zeros") and array_norm(ours) == 0:
            left_out.append(str(check.targets[i]))
            continue
        cause = diagnose(ours, theirs, difference.noise, sizes_of(check.equation, check.targets[i]))
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


def _by_differences(
    check: EquationCheck, operands: Sequence[Any], cts: Sequence[Any], kind: Cotangent, location: Location,
    name: str, refused: str, intended: Sequence[str],
) -> CustomRuleVerdict:  # fmt: skip
    """A user's rule against differences of its primal, which JAX does not differentiate."""
    outputs = filter(is_inexact, COMPILED.values(check.equation, operands))
    # A buffer that was not filled up may hold infinities, of which nothing can be said.
    cts = [jnp.where(jnp.isfinite(y), ct, jnp.zeros_like(ct)) for ct, y in zip(cts, outputs, strict=True)]
    pairs = COMPILED.both(check._replace(primal=False), operands, cts)  # both sides are the user's rule
    evidence, wrong, worst = Evidence(check, operands, cts, pairs, kind, location), [], 0.0
    for i, alike in _by_variable(check).items():
        try:
            cotangent = sum(to_float64(pairs[j].second) for j in alike)
            found = differences_in_own_precision(evidence, alike, cotangent)
        except Exception as error:  # the user's function may refuse anything
            said = f"{refused}; nor by differences: {first_line(error)}"
            return CustomRuleVerdict(notes=[f"{name} was not compared with its primal: {said}"])
        worst = max(worst, found.error)
        if found.error > found.allowed and found.allowed < NOISE_LIMIT:
            by = f"the slope by the rule is {found.slope:.6g}, by differences {found.central:.6g}"
            by += f", a factor of {found.slope / found.central:.3g}" if found.central else ""
            reason = f"{Finding.CUSTOM_RULE.value}, by differences (JAX refuses to differentiate the primal): {by}"
            wrong.append(failed(evidence, i, reason, error=found.error, allowed=found.allowed))
    if wrong and users_name(check.equation) in intended:
        return CustomRuleVerdict(replaced=[f"{name}: its rule differs from its primal's derivative, as declared"])
    if worst < SOLVER and holds(Call.of(check.equation).body, {"while"}):
        said = f"{name}: its rule is that of an exact solution, {worst:.1e} off the slope of its steps, by differences"
        return CustomRuleVerdict(replaced=[said], follows=True, by_differences=True)
    return CustomRuleVerdict(wrong, by_differences=True)


def _by_variable(check: EquationCheck) -> dict[int, list[int]]:
    """The active operands that are one variable, by the first of them: `custom_root` hands it to the function and to
    the solver, and only together do they move the root."""
    groups: dict[Any, list[int]] = {}
    for i, position in enumerate(check.targets):
        groups.setdefault(check.equation.invars[position], []).append(i)
    return {alike[0]: alike for alike in groups.values()}
