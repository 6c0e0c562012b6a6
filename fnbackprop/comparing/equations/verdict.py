"""The verdict on one equation: whether a difference is rounding, and if not, whose, and what would explain it."""

import contextlib
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
from fnbackprop.jaxprs.limited_loops import TooManyIterations
from fnbackprop.jaxprs.primitives import Trait, has
from fnbackprop.jaxprs.wrapped import custom_rule_place, users_function

from ..arrays import array_norm, distance, quotient, to_float64
from ..diagnosis import diagnose
from ..noise import MORE_SAMPLES, shaken
from ..program import place_of
from ..results import Agreement, Cause, EquationComparison, EquationKind, Hypothesis, Verdict
from ..tolerance import NOISE, SAME_PRECISION, facts_of_equation, rounding_floor, unit_roundoff
from .check import COMPILED, Evidence, cotangents_in_float64
from .equation_differences import SAID_NOTHING, Opinion, differences

EXACT = 1e-9  # the largest relative error of a right rule in float64
APPROXIMATION = 4.0  # roundoffs: a special function that is approximated to one is not so in its derivative
NEGLIGIBLE = 1e-12  # relative: in float64, for which no finer reference tells rounding from a loss of precision
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
      allowed: the relative error that was exceeded.
    """

    finding: Finding
    ours: np.ndarray
    theirs: np.ndarray
    noise: float
    allowed: float
    detail: str = ""


def equation_verdict(evidence: Evidence) -> list[EquationComparison]:
    """The operands whose manual cotangent is wrong; empty if the rule is right."""
    if all(pair.error == 0 for pair in evidence.pairs):
        return []
    floor = rounding_floor(facts_of_equation(evidence.check.equation))
    suspects = [i for i, pair in enumerate(evidence.pairs) if not pair.error <= floor]
    exact = exactly(evidence) if suspects else None
    return [one for i in suspects if (one := _operand_verdict(evidence, i, exact, floor)) is not None]


def _operand_verdict(evidence: Evidence, i: int, exact: Any, floor: float) -> EquationComparison | None:
    difference = difference_of(evidence, i, exact, floor)
    if difference.finding is Finding.ROUNDING:
        return None
    ours, theirs = difference.ours, difference.theirs
    if _same_for_hermitian(evidence, difference):
        return None
    finite = np.isfinite(ours).all()
    opinion = differences(evidence, i, ours, theirs, difference.noise) if finite else SAID_NOTHING
    tiny = distance(ours, theirs) < NEGLIGIBLE
    if opinion.who in (Agreement.MANUAL, Agreement.BOTH) and (difference.finding is Finding.DIFFERS or tiny):
        return None
    in_float64 = evidence.check.users_mode and evidence.pairs[i].first.dtype.itemsize >= 8
    if opinion.who is Agreement.NEITHER and finite and in_float64 and difference.finding is Finding.DIFFERS:
        if distance(ours, theirs) <= NOISE * _shaken_noise(evidence, i):  # no witness: its last bits are all there is
            return None
    cause = cotangent_hypothesis(evidence, i, 10 * floor)
    if cause is None and finite and np.isfinite(theirs).all():
        cause = diagnose(ours, theirs, difference.noise, sizes_of(evidence.check.equation, evidence.check.targets[i]))
    return comparison_of(evidence, i, difference, cause, opinion)


def _same_for_hermitian(evidence: Evidence, difference: Difference) -> bool:
    """Whether our cotangent is the automatic one, taken to the triangle that is read. JAX spreads it over both; beside
    a repeated eigenvalue, or next to a matrix that is not positive, no difference of the function can tell that."""
    equation = evidence.check.equation
    if evidence.check.primal or not has(equation, Trait.HERMITIAN):
        return False
    theirs = difference.theirs
    diagonal = np.real(theirs) * np.eye(theirs.shape[-1])
    both = theirs + np.conj(np.swapaxes(theirs, -1, -2))  # d f = Re sum(theirs dA), where dA is hermitian
    triangle = np.tril(both, -1) if equation.params.get("lower", True) else np.triu(both, 1)
    return distance(difference.ours, triangle + diagonal) <= difference.allowed


def exactly(evidence: Evidence) -> tuple[Any, Any]:
    """Both sides in float64, or (None, None) where the equation cannot be run in it."""
    try:
        return cotangents_in_float64(evidence.check, evidence.operands, evidence.cotangents)
    except Exception:  # what stands in the equation is the user's, and may refuse other types in any way
        return None, None


def difference_of(evidence: Evidence, i: int, exact: tuple[Any, Any], floor: float) -> Difference:
    """What the difference of the two cotangents of the i-th active operand is."""
    pair = evidence.pairs[i]
    first, second = to_float64(pair.first), to_float64(pair.second)
    ours, theirs = np.isfinite(first), np.isfinite(second)
    if not (ours.all() and theirs.all()):
        if bool(np.any(theirs & ~ours)):
            return Difference(Finding.NOT_FINITE, first, second, floor, floor)
        first, second = np.where(theirs, first, 0), np.where(theirs, second, 0)
        return _coarse_difference(first, second, floor)
    firsts, seconds = exact
    if seconds is None or not np.isfinite(seconds[i]).all():
        return _coarse_difference(first, second, floor)
    low = not evidence.check.users_mode or pair.first.dtype.itemsize < 8
    own = firsts[i] if firsts is not None and np.isfinite(firsts[i]).all() else None
    if own is not None:
        off = distance(own, seconds[i])
        # A difference that the program's precision hides is none; nor is one that a primal's approximation explains,
        # which is no coarser than float32's: of bfloat16, in float64 only the rounding of its constants is left.
        explained = floor
        if evidence.check.primal and facts_of_equation(evidence.check.equation).roundoff <= unit_roundoff("float32"):
            explained = APPROXIMATION * floor
        limit = max(EXACT if low else 1e3 * EXACT, explained)
        if off > limit and off > 1e-3 * min(distance(first, second), 1.0):  # rounding in float64 is smaller by 1e-8
            return Difference(Finding.DIFFERS, own, seconds[i], 1e-12 if low else EXACT, limit)
    # A user's rule reads its own forward's rounded output: a last bit of it may matter. If the rule is right in
    # float64, half of the digits do.
    if own is not None and evidence.check.primal:
        floor = max(floor, math.sqrt(facts_of_equation(evidence.check.equation).roundoff) / 2)
    moved = partial(_shaken_noise, evidence, i) if evidence.check.primal or not low else None
    return _against_reference(first, second, seconds[i], floor, moved, known=firsts is not None)


def _coarse_difference(first: np.ndarray, second: np.ndarray, floor: float) -> Difference:
    """Without a float64 reference."""
    finding = Finding.ROUNDING if distance(first, second) <= 10 * floor else Finding.DIFFERS
    return Difference(finding, first, second, floor, 10 * floor)


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
      moved: how far a last bit of what goes in moves the result; None: not asked.
      known: whether the rule is known to be right in float64.
    """
    noise, off = distance(second, reference), distance(first, reference)
    allowed = max(2 * floor, luck(first.size) * noise)
    if off > allowed and moved is not None:
        noise = moved()
        allowed = max(allowed, NOISE * noise)
    if off <= allowed:
        return Difference(Finding.ROUNDING, first, second, noise, allowed)
    if known:
        detail = f": {off:.1e} from float64, the automatic derivative {noise:.1e}"
        return Difference(Finding.IMPRECISE, first, reference, noise, allowed, detail)
    return Difference(Finding.DIFFERS, first, reference, max(noise, floor), allowed)


def _shaken_noise(evidence: Evidence, i: int) -> float:
    """How far the automatic cotangent moves, relatively, when the last bit of every operand and cotangent changes.

    By as many samples as for a leaf without a finer reference: a continued fraction moves by nothing, or by much."""
    check = evidence.check
    roundoff = facts_of_equation(check.equation).roundoff
    values = list(evidence.operands), list(evidence.cotangents)
    noise = 0.0
    for sample in range(MORE_SAMPLES):
        with contextlib.suppress(TooManyIterations):  # beside the point a loop need not converge
            moved = COMPILED.both(check, *shaken(values, sample, roundoff))[i].second
            noise = max(noise, distance(moved, evidence.pairs[i].second))
    return noise


def luck(size: int) -> float:
    """How many times the automatic derivative's rounding error the manual one's may be: K, more for few elements.

    The ratio of two norms of `size` Gaussians exceeds the square root of F's quantile with probability LUCK.
    """
    from scipy.special import fdtri

    return max(SAME_PRECISION, math.sqrt(fdtri(size, size, 1 - LUCK)))


# ---------------------------------------------------------------- in words


def comparison_of(
    evidence: Evidence, i: int, difference: Difference, cause: Hypothesis | None, opinion: Opinion
) -> EquationComparison:
    ours, theirs = difference.ours, difference.theirs
    with np.errstate(invalid="ignore", over="ignore"):
        error, ratio = distance(ours, theirs), quotient(array_norm(ours), array_norm(theirs))
    said = difference.finding.value + difference.detail
    reason = f"{said}; {opinion.reason}" if opinion.reason else said
    numbers = {"error": error, "allowed": difference.allowed, "ratio": ratio}
    return failed(evidence, i, reason, hypothesis=cause, numeric=opinion.who, **numbers)


def failed(evidence: Evidence, i: int, reason: str, **found: Any) -> EquationComparison:
    """The i-th active operand of an equation, whose cotangent is wrong."""
    check = evidence.check
    equation, position = check.equation, check.targets[i]
    name, place = users_rule(equation, check.active, position) if check.primal else rule_of(equation, position)
    return EquationComparison(
        primitive=equation.primitive.name, name=name, rule_at=place, where=evidence.location.line,
        within=evidence.location.within, operand=position, cotangent=evidence.kind, verdict=Verdict.FAIL, reason=reason,
        kind=EquationKind.CUSTOM_RULE if check.primal else EquationKind.RULE, **found,
    )  # fmt: skip


def users_name(equation: Any) -> str:
    """The name of the function that a custom rule belongs to."""
    return equation.params.get("name") or users_function(equation)[0] or equation.primitive.name


def users_rule(equation: Any, active: Sequence[bool], position: int) -> tuple[str, str]:
    """The name of the function that a custom rule belongs to, and the "file:line" of its backward or of its JVP, for
    the operand at `position`."""
    return users_name(equation), custom_rule_place(equation, active, position)


def rule_of(equation: Any, position: int) -> tuple[str, str]:
    """The hand-written function that gives this operand's cotangent: its name and its "file:line"."""
    entry = lookup(equation.primitive)
    rule = entry.rule_for(position, entry.given(equation.params)) if entry else None
    if rule is not None:
        return rule.name, place_of(rule.function)
    if entry and entry.structured:
        return entry.structured.__name__, place_of(entry.structured)
    return equation.primitive.name, ""


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


def cotangent_hypothesis(evidence: Evidence, i: int, tolerance: float) -> Hypothesis | None:
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
