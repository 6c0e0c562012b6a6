"""The numeric gradient: differences of the function itself, which share no rule with either backward.

Both gradients are held against them, along directions that move all leaves and along one for each leaf alone.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..arrays import array_norm, is_floating
from ..program import Program, TracedProgram, first_line, unused_inputs
from ..reference.float64 import is_another_branch
from ..reference.inner_rounding import value_noise
from ..results import MANUAL_AND_AUTOMATIC, NumericComparison, Sides, Verdict
from ..tolerance import NOISE_LIMIT, RoundingFacts
from .agreement import DifferencesVerdict, verdict_of
from .arbitration import LeafNumeric, follows_manual
from .directions import TAYLOR, Along, DirectionalEvaluator, gradient_size
from .slopes import best_step, shape_of
from .staircases import decided_slope

SECONDS = 10.0  # for the directions of single leaves; more is not taken unasked
CHI2_1 = 0.00393214  # exceeded with 95 % by the square of one Gaussian number
TIE = (
    "the function's slope differs from the gradient's, but agrees with it once each decision (a winner, a bound) is "
    "held as it is at this point: a tie, where the gradient is a convention, or one that is nearer than the steps"
)
ON_PURPOSE = "the differences agree with neither, since rules replace derivatives on purpose"
MATTERS = 1e-3  # a difference of one-sided slopes, relative to the gradient's size


class Differences(NamedTuple):
    """What differences of the function say.

    Attributes:
      comparison: along the directions that move all leaves.
      each: what each leaf's own direction says; None: not taken.
      automatic_wrong: the disputed leaves in which the function follows manual, and not automatic.
      intended: the lines at which gradients are stopped or replaced on purpose and that make a difference.
      notes: what else there is to know.
      decided: the leaves of zero gradient along which the function moves all the same, with the reason.
    """

    comparison: NumericComparison
    each: list[LeafNumeric | None]
    automatic_wrong: set[int]
    intended: list[str]
    notes: list[str]
    decided: dict[int, str]


class Subject(NamedTuple):
    """The function and the two gradients that are held against differences of it.

    Attributes:
      program, traced, facts: the function.
      manual, automatic: the gradients. sides: what they are called in a reason.
      allowed: for each leaf, the relative error that rounding explains.
      value: the function's, and the relative error that rounding explains in it.
      seed: of the directions.
      norms: the leaves' norms in float64, where there is a reference.
    """

    program: Program
    traced: TracedProgram
    facts: RoundingFacts
    manual: Any
    automatic: Any
    allowed: Sequence[float]
    value: tuple[Any, float]
    seed: int
    sides: Sides = MANUAL_AND_AUTOMATIC
    norms: Sequence[float] | None = None

    def value_noise(self) -> float:
        """How far rounding inside moves the value, absolutely."""
        return value_noise(self.traced, self.facts.roundoff)

    def along(self, evaluator: DirectionalEvaluator, count: int) -> list[Along]:
        """So many directions that move all leaves."""
        return [evaluator.along(self.manual, self.automatic, self.seed + i) for i in range(count)]


def compare_numeric(
    subject: Subject,
    directions: int,
    leaves: bool | None,
    disputed: Sequence[int],
    replaced: Callable[[], Sequence[str]],
) -> Differences:
    """Hold both gradients against differences of the function.

    Distances are relative to the size that the derivative in a Gaussian direction has, the norm of the scaled gradient,
    and not to the derivative itself, which is near zero in an unlucky direction. What is allowed is seen from the
    differences themselves, see `best_step`, beside the rounding of the gradient itself.

    Args:
      directions: how many move all leaves.
      leaves: whether each leaf gets a direction of its own; None: if that takes a few seconds.
      disputed: the leaves in which manual and automatic differ.
      replaced: finds the lines at which a rule replaces a derivative on purpose; asked where the differences disagree.
    """
    evaluator, found, notes = _take(subject, directions)
    judged = _judged(evaluator, found, subject, leaves, replaced)
    if judged.result.verdict not in (Verdict.PASS, Verdict.NOISE_LIMITED):
        evaluator.measure_noise(subject.seed)  # only now: it compiles the function once more
        if any(evaluator.noise > along.slopes.rounding for along in found):
            found = [along.with_noise(evaluator.noise) for along in found]
            judged = _judged(evaluator, found, subject, leaves, replaced)
    result, each, intended, more, evaluator = judged
    notes += more
    comparison = NumericComparison(result.verdict, result.reason, directions, *result[2:5], _rate(found, evaluator))
    both, allowed = (subject.manual, subject.automatic), subject.allowed
    automatic_wrong = {i for i in disputed if follows_manual(evaluator, *both, i, allowed[i])}
    decided = {} if intended else _decided(evaluator, subject)
    return Differences(comparison, each, automatic_wrong, intended, notes, decided)


class _Judged(NamedTuple):
    """A verdict on differences: see `Differences`; `evaluator` is the one whose function they agree with."""

    result: DifferencesVerdict
    each: list[LeafNumeric | None]
    intended: list[str]
    notes: list[str]
    evaluator: DirectionalEvaluator


def _judged(
    evaluator: DirectionalEvaluator,
    found: list[Along],
    subject: Subject,
    leaves: bool | None,
    replaced: Callable[[], Sequence[str]],
) -> _Judged:
    """The verdict of all directions, then of each leaf's own."""
    started = time.perf_counter()
    size, own = _sizes(subject, evaluator.scales)
    result = verdict_of(found, size, own, MATTERS if evaluator.in_float64 else 0.05, subject.sides)
    intended: list[str] = []
    if result.verdict is Verdict.FAIL and result.automatic > result.allowed:
        result, intended, evaluator = _on_purpose(evaluator, result, subject, own, replaced)
    if intended:
        return _Judged(result, [], intended, [], evaluator)
    each, notes = _each_leaf(evaluator, subject, leaves, started)
    together, result = result, _with_leaves(result, each, subject.sides)
    if result is not together and not any(one is not None and one.automatic > one.manual for one in each):
        if intended := list(replaced()):  # of a solver whose steps are too rough for the directions of all leaves
            result = result._replace(verdict=together.verdict, reason=ON_PURPOSE)
    return _Judged(result, each, intended, notes, evaluator)


def _decided(evaluator: DirectionalEvaluator, subject: Subject) -> dict[int, str]:
    """The leaves whose gradient is exactly zero though the function moves along them."""
    leaves = zip(jax.tree.leaves(subject.manual), jax.tree.leaves(subject.automatic), strict=True)
    flat = [i for i, pair in enumerate(leaves) if is_floating(pair[0]) and not any(map(array_norm, pair))]
    used = set(range(len(subject.traced.operands))) - unused_inputs(subject.traced)
    found = {i: decided_slope(evaluator, subject.manual, subject.seed, i) for i in flat if i in used}
    return {i: reason for i, reason in found.items() if reason}


def _take(subject: Subject, directions: int) -> tuple[DirectionalEvaluator, list[Along], list[str]]:
    """The function along directions: in float64, or with a note in its own precision."""
    evaluator = DirectionalEvaluator(subject.program, subject.traced)
    try:
        found = subject.along(evaluator, directions)
        refused = is_another_branch(found[0].slopes.here, *subject.value, subject.value_noise)
    except Exception as error:  # what is the user's may refuse float64 in any way
        refused = first_line(error)
    if not refused:
        return evaluator, found, []
    evaluator = DirectionalEvaluator(subject.program, subject.traced, low=True)
    found = subject.along(evaluator, directions)
    return evaluator, found, [f"numeric: in the program's own precision, since {refused}"]


def _on_purpose(
    evaluator: DirectionalEvaluator,
    result: DifferencesVerdict,
    subject: Subject,
    own: float,
    replaced: Callable[[], Sequence[str]],
) -> tuple[DifferencesVerdict, list[str], DirectionalEvaluator]:
    """Differences again with decisions, and what is stopped, held: they agree if that alone made the difference."""
    lines = subject.facts.stop_gradients
    stops = [f"the gradient is stopped at {line}" for line in lines]
    if evaluator.in_float64:
        try:
            held = DirectionalEvaluator(evaluator.program, evaluator.traced, held=True)
            held.noise = evaluator.noise
            again = verdict_of(subject.along(held, 2), result.size, own, MATTERS, subject.sides)
        except Exception:  # what is the user's may refuse float64 in any way
            again = result
        if again.verdict is Verdict.PASS and not stops:
            return again._replace(verdict=Verdict.KINK, reason=TIE), [], held
        if again.verdict is Verdict.PASS:
            reason = f"with what is stopped held constant; as a whole the function's slope is {result.manual:.1e} off"
            return again._replace(reason=reason), stops, held
    if lines_of_rules := replaced():
        return result._replace(verdict=Verdict.PASS, reason=ON_PURPOSE), [*stops, *lines_of_rules], evaluator
    at = f"; gradients are stopped at {', '.join(lines)}" if stops else ""
    return result._replace(reason=result.reason + at), [], evaluator


def _each_leaf(
    evaluator: DirectionalEvaluator, subject: Subject, leaves: bool | None, started: float
) -> tuple[list[LeafNumeric | None], list[str]]:
    """Every leaf by itself, and notes."""
    manual, automatic = jax.tree.leaves(subject.manual), jax.tree.leaves(subject.automatic)
    inputs = jax.tree.leaves(evaluator.program.inputs)
    floating = [i for i, leaf in enumerate(inputs) if is_floating(leaf) and leaf.size]
    each: list[LeafNumeric | None] = [None] * len(manual)
    for done, i in enumerate(floating if leaves is not False else (), start=1):
        along = evaluator.along(manual, automatic, subject.seed + 1000 + i, leaf=i)
        norms = array_norm(manual[i]), array_norm(automatic[i])
        each[i] = _one_leaf(along, *norms, evaluator.scales[i], subject.allowed[i])
        total = (time.perf_counter() - started) / done * len(floating)
        if leaves is None and total > SECONDS and 1 < done < len(floating):
            said = f"numeric: {done} of {len(floating)} leaves by themselves"
            return each, [f"{said}; all would take {total:.0f} s (leaf_directions=True)"]
    return each, []


def _with_leaves(result: DifferencesVerdict, each: Sequence[LeafNumeric | None], sides: Sides) -> DifferencesVerdict:
    """The verdict, where a leaf by itself shows what the directions that move all leaves did not."""
    wrong = [i for i, leaf in enumerate(each) if leaf is not None and not leaf.manual]
    if not wrong or result.verdict not in (Verdict.PASS, Verdict.NOISE_LIMITED):
        return result
    who = sides.automatic if each[wrong[0]].automatic else "neither"
    which = f"along leaf {wrong[0] + 1} of {len(each)} alone"
    reason = f"{which}, the differences agree with {who}, not with {sides.manual}"
    return result._replace(verdict=Verdict.FAIL, reason=reason)


def _one_leaf(along: Along, manual_norm: float, norm: float, scale: float, allowed: float) -> LeafNumeric | None:
    slopes = along.slopes
    chosen, spread = best_step(slopes.central[None], slopes.lengths, slopes.rounding)
    size = (max(norm, manual_norm) if math.isfinite(norm) else manual_norm) * scale
    limit = 4 * spread + 4 * allowed * size
    if not math.isfinite(limit + along.manual) or limit > NOISE_LIMIT * size:
        return None
    off = [abs(slopes.central[chosen] - by) for by in (along.manual, along.automatic)]
    smooth = shape_of(slopes, MATTERS * size)[0] is Verdict.PASS
    bound = max(off[0], spread / 3) / math.sqrt(CHI2_1) / size if size else math.nan
    return LeafNumeric(off[0] <= limit or not smooth, off[1] <= limit or not smooth, bound)


def _rate(found: list[Along], evaluator: DirectionalEvaluator) -> float:
    """By which power of the step the Taylor remainder with the manual gradient falls; NaN below rounding."""
    rates = []
    for along in found if evaluator.in_float64 else ():
        lengths = np.array(TAYLOR)
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = np.abs(along.taylor - along.slopes.here - lengths * along.manual)
            if (rest > 1e3 * along.slopes.rounding).all():
                rates.append(float(np.mean(np.log2(rest[:-1] / rest[1:]))))
    return float(np.median(rates)) if rates else math.nan


def _sizes(subject: Subject, scales: Sequence[float]) -> tuple[float, float]:
    """The root mean square of the gradient's product with a Gaussian direction, and that of its rounding."""
    sides = subject.manual, subject.automatic
    both = zip(*map(jax.tree.leaves, sides), strict=True)
    norms = [max(map(array_norm, pair)) if is_floating(pair[0]) else 0.0 for pair in both]
    if subject.norms is not None:  # both gradients may have been rounded to nothing
        norms = [max(pair) if math.isfinite(pair[1]) else pair[0] for pair in zip(norms, subject.norms, strict=True)]
    parts = [n * s * a for n, s, a in zip(norms, scales, subject.allowed, strict=True) if math.isfinite(n * s * a)]
    size = max(gradient_size(subject.program, side) for side in sides)
    if not math.isfinite(size):
        size = max(gradient_size(subject.program, side, finite=True) for side in sides)
    return size, math.hypot(*parts)
