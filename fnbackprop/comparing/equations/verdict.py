"""The verdict on one equation: whether a difference is rounding, and if not, whose, and what would explain it."""

import enum
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.registry import lookup
from fnbackprop.jaxprs.avals import operand_avals, output_avals

from ..arrays import array_norm, distance, quotient, to_float64
from ..diagnosis import diagnose
from ..noise import shaken
from ..program import first_line
from ..results import Agreement, Cause, Cotangent, EquationComparison, EquationKind, Hypothesis, Verdict
from ..tolerance import NOISE, SAME_PRECISION, facts_of_equation, rounding_floor
from .check import COMPILED, EquationCheck, Evidence, cotangents_in_float64
from .differences import SAID_NOTHING, Opinion, differences
from .walk import Location

EXACT = 1e-9  # the largest relative error of a right rule in float64
LUCK = 1e-6  # how often a right rule may be accused because the automatic one was lucky in its rounding


class Finding(enum.Enum):
    """What a difference of the two cotangents is."""

    ROUNDING = ""
    DIFFERS = "the rule and the automatic derivative differ"
    NOT_FINITE = "NaN or infinite where the automatic derivative is finite"
    IMPRECISE = "the sums lose precision"
    CUSTOM_RULE = "the rule is not the derivative of its primal"


class Difference(NamedTuple):
    """How the two cotangents of an operand differ.

    Attributes:
      finding: what the difference is. detail: more of it, in words.
      ours, theirs: the manual and the automatic cotangent, or whatever is surer than these.
      noise: the relative rounding error in them.
    """

    finding: Finding
    ours: np.ndarray
    theirs: np.ndarray
    noise: float
    detail: str = ""


def equation_verdict(evidence: Evidence) -> list[EquationComparison]:
    """The operands whose manual cotangent is wrong; empty if the rule is right."""
    if all(pair.error == 0 for pair in evidence.pairs):
        return []
    floor = rounding_floor(facts_of_equation(evidence.check.equation))
    suspects = [i for i, pair in enumerate(evidence.pairs) if not pair.error <= floor]
    exact = _exactly(evidence) if suspects else None
    return [one for i in suspects if (one := _operand_verdict(evidence, i, exact, floor)) is not None]


def _operand_verdict(evidence: Evidence, i: int, exact: Any, floor: float) -> EquationComparison | None:
    difference = _difference(evidence, i, exact, floor)
    if difference.finding is Finding.ROUNDING:
        return None
    ours, theirs = difference.ours, difference.theirs
    finite = np.isfinite(ours).all()
    opinion = differences(evidence, i, ours, theirs) if finite else SAID_NOTHING
    if opinion.who in (Agreement.MANUAL, Agreement.BOTH) and difference.finding is Finding.DIFFERS:
        return None
    cause = _cotangent_hypothesis(evidence, i, 10 * floor)
    if cause is None and finite and np.isfinite(theirs).all():
        cause = diagnose(ours, theirs, difference.noise, sizes_of(evidence.check.equation, evidence.check.targets[i]))
    return _comparison(evidence, i, difference, floor, cause, opinion)


def _exactly(evidence: Evidence) -> tuple[Any, Any]:
    """Both sides in float64, or (None, None) where the equation cannot be run in it."""
    try:
        return cotangents_in_float64(evidence.check, evidence.operands, evidence.cotangents)
    except Exception:  # what stands in the equation is the user's, and may refuse other types in any way
        return None, None


def _difference(evidence: Evidence, i: int, exact: tuple[Any, Any], floor: float) -> Difference:
    """What the difference of the two cotangents of the i-th active operand is."""
    pair = evidence.pairs[i]
    first, second = to_float64(pair.first), to_float64(pair.second)
    ours, theirs = np.isfinite(first), np.isfinite(second)
    if not (ours.all() and theirs.all()):
        if bool(np.any(theirs & ~ours)):
            return Difference(Finding.NOT_FINITE, first, second, floor)
        first, second = np.where(theirs, first, 0), np.where(theirs, second, 0)
        return _coarse_difference(first, second, floor)
    firsts, seconds = exact
    if seconds is None or not np.isfinite(seconds[i]).all():
        return _coarse_difference(first, second, floor)
    low = not evidence.check.users_mode or pair.first.dtype.itemsize < 8
    own = firsts[i] if firsts is not None and np.isfinite(firsts[i]).all() else None
    if own is not None:
        off = distance(own, seconds[i])
        limit = EXACT if low else 1e3 * EXACT
        if off > limit and off > 1e-3 * min(distance(first, second), 1.0):  # rounding in float64 is smaller by 1e-8
            return Difference(Finding.DIFFERS, own, seconds[i], 1e-12 if low else EXACT)
    moved = None if low else partial(_shaken_noise, evidence, i)
    return _against_reference(first, second, seconds[i], floor, moved, known=firsts is not None)


def _coarse_difference(first: np.ndarray, second: np.ndarray, floor: float) -> Difference:
    """Without a float64 reference."""
    finding = Finding.ROUNDING if distance(first, second) <= 10 * floor else Finding.DIFFERS
    return Difference(finding, first, second, floor)


def _against_reference(
    first: np.ndarray,
    second: np.ndarray,
    reference: np.ndarray,
    floor: float,
    moved: Callable[[], float] | None,
    known: bool,
) -> Difference:
    """Both against the automatic cotangent in float64.

    Args:
      moved: in a program of float64, for which nothing finer tells of rounding: how far a last bit moves the result.
      known: whether the rule is known to be right in float64.
    """
    noise, off = distance(second, reference), distance(first, reference)
    if off <= max(2 * floor, luck(first.size) * noise):
        return Difference(Finding.ROUNDING, first, second, noise)
    if moved is not None and off <= NOISE * (noise := moved()):
        return Difference(Finding.ROUNDING, first, second, noise)
    if known:
        detail = f": {off:.1e} from float64, the automatic derivative {noise:.1e}"
        return Difference(Finding.IMPRECISE, first, reference, noise, detail)
    return Difference(Finding.DIFFERS, first, reference, max(noise, floor))


def _shaken_noise(evidence: Evidence, i: int) -> float:
    """How far the automatic cotangent moves, relatively, when the last bit of every operand and cotangent changes."""
    check = evidence.check
    roundoff = facts_of_equation(check.equation).roundoff
    values = list(evidence.operands), list(evidence.cotangents)
    moved = (COMPILED.both(check, *shaken(values, sample, roundoff))[i].second for sample in range(2))
    return max(distance(one, evidence.pairs[i].second) for one in moved)


def luck(size: int) -> float:
    """How many times the automatic derivative's rounding error the manual one's may be: K, more for few elements.

    The ratio of two norms of `size` Gaussians exceeds the square root of F's quantile with probability LUCK.
    """
    from scipy.special import fdtri

    return max(SAME_PRECISION, math.sqrt(fdtri(size, size, 1 - LUCK)))


# ---------------------------------------------------------------- a user's rule against its primal


class CustomRuleVerdict(NamedTuple):
    """What is wrong with a user's rule, what it replaces on purpose, and what else there is to know."""

    wrong: list[EquationComparison] = []
    replaced: list[str] = []
    notes: list[str] = []


def custom_rule_verdict(
    check: EquationCheck,
    operands: Sequence[Any],
    cts: Sequence[Any],
    kind: Cotangent,
    location: Location,
    intended: Sequence[str],
) -> CustomRuleVerdict:
    """A user's rule against the derivative of its primal."""
    name = f"{users_name(check.equation)} at {location.line}"
    try:
        evidence = Evidence(check, operands, cts, COMPILED.both(check, operands, cts), kind, location)
    except Exception as error:
        return CustomRuleVerdict(notes=[f"{name} was not compared with its primal: {first_line(error)}"])
    floor = rounding_floor(facts_of_equation(check.equation))
    suspects = [i for i, pair in enumerate(evidence.pairs) if not pair.error <= floor]
    exact, wrong = _exactly(evidence) if suspects else None, []
    for i in suspects:
        difference = _difference(evidence, i, exact, floor)
        broken = not np.isfinite(to_float64(evidence.pairs[i].second)).all()
        if difference.finding is Finding.ROUNDING and not broken:
            continue
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
        cause = diagnose(ours, theirs, difference.noise, sizes_of(check.equation, check.targets[i]))
        cause = cause or _cotangent_hypothesis(evidence, i, 10 * floor)
        if difference.finding in (Finding.DIFFERS, Finding.ROUNDING):
            difference = difference._replace(finding=Finding.CUSTOM_RULE)
        wrong.append(_comparison(evidence, i, difference, floor, cause, opinion))
    return CustomRuleVerdict(wrong)


# ---------------------------------------------------------------- in words


def _comparison(
    evidence: Evidence, i: int, difference: Difference, floor: float, cause: Hypothesis | None, opinion: Opinion
) -> EquationComparison:
    check, (ours, theirs) = evidence.check, (difference.ours, difference.theirs)
    equation, position = check.equation, check.targets[i]
    with np.errstate(invalid="ignore", over="ignore"):
        error, ratio = distance(ours, theirs), quotient(array_norm(ours), array_norm(theirs))
    reason = difference.finding.value + difference.detail
    return EquationComparison(
        primitive=equation.primitive.name,
        name=users_name(equation) if check.primal else rule_name(equation, position),
        where=evidence.location.line, within=evidence.location.within, operand=position, cotangent=evidence.kind,
        verdict=Verdict.FAIL, reason=f"{reason}; {opinion.reason}" if opinion.reason else reason, error=error,
        allowed=floor, ratio=ratio, hypothesis=cause, numeric=opinion.who,
        kind=EquationKind.CUSTOM_RULE if check.primal else EquationKind.RULE,
    )  # fmt: skip


def users_name(equation: Any) -> str:
    """The name of the function that a custom rule belongs to."""
    params = equation.params
    closed = params["jaxpr"] if "jaxpr" in params else params.get("call_jaxpr")
    info = getattr(getattr(closed, "jaxpr", closed), "debug_info", None)
    name = params.get("name") or str(getattr(info, "func_src_info", "")).split(" at ")[0]
    return name or equation.primitive.name


def rule_name(equation: Any, position: int) -> str:
    """The hand-written function that gives this operand's cotangent."""
    entry = lookup(equation.primitive)
    rule = entry.rule_for(position) if entry else None
    if rule is not None:
        return rule.name
    return entry.structured.__name__ if entry and entry.structured else equation.primitive.name


def sizes_of(equation: Any, position: int) -> dict[int, str]:
    """What a wrong factor may stem from: sizes of axes that the operand does not have, device counts, loop lengths."""
    own = equation.invars[position].aval.shape
    sizes = {jax.device_count(): "the number of devices"} if jax.device_count() > 1 else {}
    for aval in (*operand_avals(equation), *output_avals(equation)):
        for axis, count in enumerate(getattr(aval, "shape", ())):
            if count > 1 and aval.shape != own:
                sizes.setdefault(count, f"axis {axis}")
    if "length" in equation.params:
        sizes[equation.params["length"]] = "the steps of the loop"
    return sizes


def _cotangent_hypothesis(evidence: Evidence, i: int, tolerance: float) -> Hypothesis | None:
    """Whether a cotangent is ignored, or two operands' cotangents are exchanged."""
    check, pairs, cts = evidence.check, evidence.pairs, evidence.cotangents
    first = to_float64(pairs[i].first)
    size = array_norm(first)
    if not (np.isfinite(first).all() and size):
        return None
    for j, other in enumerate(pairs):
        same = j != i and np.shape(other.second) == first.shape
        if same and array_norm(first - to_float64(other.second)) <= tolerance * size:
            i, j = check.targets[i], check.targets[j]
            return Hypothesis(f"the cotangent of operand {j} is given to operand {i}", Cause.SWAP, 0.0)
    doubled = to_float64(COMPILED.both(check, evidence.operands, [ct * 2 for ct in cts])[i].first)
    if array_norm(first - doubled) <= tolerance * size:
        return Hypothesis("the cotangent is ignored", Cause.IGNORED, 0.0)
    for j in range(len(cts)) if len(cts) > 1 else ():
        without = [jnp.zeros_like(ct) if k == j else ct for k, ct in enumerate(cts)]
        left = to_float64(COMPILED.both(check, evidence.operands, without)[i].second)
        residual = quotient(array_norm(first - left), size)
        if residual <= tolerance:
            return Hypothesis(f"the cotangent of output {j} is ignored", Cause.IGNORED, residual)
    return None
