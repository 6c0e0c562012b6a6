"""The numeric gradient: differences of the function itself, which share no rule with either backward.

They are taken of the traced program in float64 where it can be run so, along Gaussian directions: some that move all
leaves, each by its own size, and one for each leaf alone.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fnbackprop.jaxprs.compat import quick_compilation

from ..arrays import array_norm, to_float64
from ..gradient_sources import is_inexact, map_inexact
from ..program import Program, RoundingFacts, TracedProgram, unit_roundoff
from ..reference.float64 import float64_value, frozen_value, is_another_branch
from ..results import NOISE_LIMIT, NumericComparison, Verdict
from ..show.status_line import first_line
from .arbitration import follows_manual
from .slopes import Slopes, best_step, shape_of

STEPS = tuple(2.0**-i for i in range(-1, 5))  # from wide to narrow, in units of numeric_step
TAYLOR = tuple(2.0**-i for i in range(6, 10))  # lengths for the rate at which the Taylor remainder falls
SECONDS = 10.0  # for the directions of single leaves; more is not taken unasked
CHI2_1 = 0.00393214  # exceeded with 95 % by the square of one Gaussian number
TIE = (
    "the function's slope is another, but with each decision (a winner, a bound) held as it is at this point "
    "it is the gradient's: a tie, where a gradient is a convention"
)
MATTERS = 1e-3  # a difference of one-sided slopes, relative to the gradient's size


class Along(NamedTuple):
    """What the function does along one direction, and what the gradients say it does.

    Attributes:
      slopes: its values on both sides at STEPS. taylor: its values ahead at TAYLOR.
      manual, automatic: the gradients' products with the direction.
    """

    slopes: Slopes
    taylor: np.ndarray
    manual: float
    automatic: float


class Differences(NamedTuple):
    """What differences of the function say.

    Attributes:
      comparison: along the directions that move all leaves.
      each: what each leaf says by itself; None: not asked.
      odd: the disputed leaves in which the function follows manual, and automatic is the odd one out.
      intended: the lines at which gradients are stopped or replaced on purpose and that make a difference.
      notes: what else there is to know.
    """

    comparison: NumericComparison
    each: list["LeafNumeric | None"]
    odd: set[int]
    intended: list[str]
    notes: list[str]


class LeafNumeric(NamedTuple):
    """One leaf by itself: whether its differences agree with manual and automatic, and the bound on its error."""

    manual: bool
    automatic: bool
    bound: float


class DirectionalEvaluator:
    """Evaluates the function along directions.

    Args:
      program, traced: what is compared.
      held: keep the decisions, and what a gradient is stopped at, as they are at the point.
    """

    def __init__(self, program: Program, traced: TracedProgram, held: bool = False, low: bool = False):
        self.program, self.traced = program, traced
        self.active = [i for i, on in enumerate(traced.active) if on]
        self.scales = direction_scales(program.inputs)
        self.in_float64 = not low
        dtype = np.float64 if self.in_float64 else _coarsest(traced)
        self.step, self.roundoff = numeric_step(dtype), unit_roundoff(dtype)
        values = self._float64_values(held) if self.in_float64 else self._values
        self.compiled = jax.jit(values, compiler_options=quick_compilation())

    def _float64_values(self, held: bool) -> Callable:
        make = frozen_value if held else float64_value
        value = make(self.traced.closed, self.active, self.traced.users_mode)

        def values(operands, highs, directions, lengths):
            def at(length):
                return value(operands, [x + d * length.astype(d.dtype) for x, d in zip(highs, directions, strict=True)])

            return jax.lax.map(at, lengths)

        return values

    def _values(self, operands, highs, directions, lengths):
        count = len(jax.tree.leaves(self.program.inputs))
        tree = jax.tree.structure(self.program.inputs)

        def at(length):
            moved = list(operands)
            for i, d in zip(self.active, directions, strict=True):
                moved[i] = moved[i] + (d * length.astype(d.dtype)).astype(moved[i].dtype)
            return self.program.function(jax.tree.unflatten(tree, moved[:count]), moved[count:])

        return jax.lax.map(at, lengths.astype(np.float32))

    def along(self, manual: Any, automatic: Any, seed: int, leaf: int | None = None) -> Along:
        """The function along the direction of this seed; of one leaf alone, if that is named."""
        direction = gaussian_direction(self.program.inputs, self.scales, seed)
        if leaf is not None:
            direction = [d if i == leaf or d is None else np.zeros_like(d) for i, d in enumerate(direction)]
        return self.along_direction(manual, automatic, direction)

    def along_direction(self, manual: Any, automatic: Any, direction: list[Any]) -> Along:
        """The function along a direction: a list of leaves, None for those that cannot move."""
        lengths = self.step * np.array(STEPS)
        count, every = len(lengths), np.concatenate([[0.0], lengths, -lengths, TAYLOR])
        moving = [d for d in direction if d is not None]
        with jax.enable_x64(self.in_float64 or self.traced.users_mode):
            highs = [to_float64(self.traced.operands[i]) for i in self.active] if self.in_float64 else []
            values = np.asarray(self.compiled(self.traced.operands, highs, moving, every), np.float64)
        largest = float(np.nanmax(np.abs(values[: 2 * count + 1]), initial=0.0))
        here, ahead, behind = values[0], values[1 : count + 1], values[count + 1 : 2 * count + 1]
        slopes = Slopes(lengths, here, ahead, behind, 4 * self.roundoff * largest)
        return Along(slopes, values[2 * count + 1 :], *(product(g, direction) for g in (manual, automatic)))


def compare_numeric(
    program: Program,
    traced: TracedProgram,
    facts: RoundingFacts,
    manual: Any,
    automatic: Any,
    *,
    directions: int,
    seed: int,
    allowed: Sequence[float],
    value: tuple[Any, float],
    disputed: Sequence[int] = (),
    replaced: Sequence[str] = (),
    leaves: bool | None = None,
) -> Differences:
    """Hold both gradients against differences of the function.

    Distances are relative to the size that the derivative in a Gaussian direction has, the norm of the scaled gradient,
    and not to the derivative itself, which is near zero in an unlucky direction. What is allowed is seen from the
    differences themselves, see `best_step`, beside the rounding of the gradient itself.

    Args:
      allowed: for each leaf, the relative error that rounding explains.
      value: the function's, and the relative error that rounding explains of it.
      disputed: the leaves in which manual and automatic differ.
      replaced: lines at which a user's rule replaces a derivative on purpose.
      leaves: whether each leaf gets a direction of its own; None: if that takes a few seconds.
    """
    notes: list[str] = []
    evaluator = DirectionalEvaluator(program, traced)
    try:
        found = [evaluator.along(manual, automatic, seed + i) for i in range(directions)]
        refused = is_another_branch(found[0].slopes.here, *value)
    except Exception as error:  # what is the user's may refuse float64 in any way
        refused = first_line(error)
    if refused:
        notes.append(f"numeric: in the program's own precision, since {refused}")
        evaluator = DirectionalEvaluator(program, traced, low=True)
        found = [evaluator.along(manual, automatic, seed + i) for i in range(directions)]
    started = time.perf_counter()
    size, own = _sizes(program, manual, automatic, evaluator.scales, allowed)
    result = _judge(found, size, own, MATTERS if evaluator.in_float64 else 0.05)
    intended: list[str] = []
    if result.verdict is Verdict.FAIL and result.automatic > result.allowed:
        result, intended, evaluator = _on_purpose(evaluator, result, facts, manual, automatic, seed, own, replaced)
    each = _each_leaf(evaluator, manual, automatic, seed, allowed, leaves, started, notes) if not intended else []
    wrong = [i for i, leaf in enumerate(each) if leaf is not None and not leaf.manual]
    if wrong and result.verdict in (Verdict.PASS, Verdict.NOISE_LIMITED):
        who = "automatic" if each[wrong[0]].automatic else "neither"
        reason = f"along leaf {wrong[0] + 1} of {len(each)} alone, the differences agree with {who}, not with manual"
        result = result._replace(verdict=Verdict.FAIL, reason=reason)
    comparison = NumericComparison(result.verdict, result.reason, directions, *result[2:5], _rate(found, evaluator))
    odd = {i for i in disputed if follows_manual(evaluator, manual, automatic, i, allowed[i])}
    return Differences(comparison, each, odd, intended, notes)


class Judged(NamedTuple):
    """A verdict, its reason, and the distances of both gradients, with what is allowed, relative to `size`."""

    verdict: Verdict
    reason: str
    manual: float
    automatic: float
    allowed: float
    size: float


def _judge(found: list[Along], size: float, own: float, matters: float) -> Judged:
    """The verdict of all directions; `own` is the rounding of the gradient along a direction."""
    rounding = np.nanmax([a.slopes.rounding for a in found] + [0.0])
    central = np.stack([a.slopes.central for a in found])
    lengths = found[0].slopes.lengths
    chosen, spread = best_step(central, lengths, rounding)
    steep = np.abs(central[:, chosen])
    size = max(size, np.max(steep, where=np.isfinite(steep), initial=0.0), rounding / lengths[0]) or 1.0
    allowed = (spread + 4 * own) / size
    sides = ([a.manual for a in found], [a.automatic for a in found])
    worst = [max(abs(c - by) for c, by in zip(central[:, chosen], side, strict=True)) / size for side in sides]
    shapes = [shape_of(a.slopes, matters * (size if math.isfinite(size) else 0.0)) for a in found]
    odd = [shape for shape in shapes if shape[0] is not Verdict.PASS]
    if 2 * len(odd) >= len(found) and odd:
        if odd[0][0] is Verdict.KINK and not all(_between(a, allowed * size) for a in found):
            return Judged(Verdict.FAIL, f"{odd[0][1]}; the gradient's lies not between them", *worst, allowed, size)
        return Judged(*odd[0], *worst, allowed, size)
    return Judged(*_agreement(*worst, allowed), *worst, allowed, size)


def _between(along: Along, slack: float) -> bool:
    """Whether the manual slope lies between those of both sides; a NaN is no slope, and is told of elsewhere."""
    ends = sorted((along.slopes.left[-1], along.slopes.right[-1]))
    return not (along.manual < ends[0] - slack or along.manual > ends[1] + slack)


def _agreement(manual: float, automatic: float, allowed: float) -> tuple[Verdict, str]:
    if not math.isfinite(allowed):
        return Verdict.NON_FINITE, "a difference is NaN or infinite"
    if manual <= allowed:
        limited = allowed > NOISE_LIMIT
        return (Verdict.NOISE_LIMITED, "a kink is near, or rounding is too coarse") if limited else (Verdict.PASS, "")
    if automatic <= allowed:
        return Verdict.FAIL, "the differences agree with automatic, not with manual"
    if not math.isfinite(manual):
        return Verdict.FAIL, "the function has a finite slope here, but the gradient is NaN or infinite"
    return Verdict.FAIL, "the differences agree with neither: a rule is wrong, or a gradient is stopped on purpose"


def _on_purpose(evaluator, result, facts, manual, automatic, seed, own, replaced):
    """Differences again with decisions, and what is stopped, held: they agree if that alone made the difference."""
    stops = [f"the gradient is stopped at {line}" for line in facts.stop_gradients]
    if evaluator.in_float64:
        try:
            held = DirectionalEvaluator(evaluator.program, evaluator.traced, held=True)
            again = _judge([held.along(manual, automatic, seed + i) for i in range(2)], result.size, own, MATTERS)
        except Exception:  # as above
            again = result
        if again.verdict is Verdict.PASS and not stops:
            return again._replace(verdict=Verdict.KINK, reason=TIE), [], held
        if again.verdict is Verdict.PASS:
            reason = f"with what is stopped held constant; as a whole the function's slope is {result.manual:.1e} off"
            return again._replace(reason=reason), stops, held
    if replaced:
        reason = "the differences agree with neither, since rules replace derivatives on purpose"
        return result._replace(verdict=Verdict.PASS, reason=reason), [*stops, *replaced], evaluator
    at = f"; gradients are stopped at {', '.join(facts.stop_gradients)}" if stops else ""
    return result._replace(reason=result.reason + at), [], evaluator


def _each_leaf(evaluator, manual, automatic, seed, allowed, leaves, started, notes) -> list[LeafNumeric | None]:
    """Every leaf by itself."""
    manual, automatic = jax.tree.leaves(manual), jax.tree.leaves(automatic)
    floating = [i for i, leaf in enumerate(jax.tree.leaves(evaluator.program.inputs)) if is_inexact(leaf) and leaf.size]
    each: list[LeafNumeric | None] = [None] * len(manual)
    if leaves is False:
        return each
    for done, i in enumerate(floating):
        along = evaluator.along(manual, automatic, seed + 1000 + i, leaf=i)
        each[i] = _one_leaf(along, array_norm(manual[i]), array_norm(automatic[i]), evaluator.scales[i], allowed[i])
        spent = time.perf_counter() - started
        if leaves is None and spent / (done + 1) * len(floating) > SECONDS and done >= 1 and done + 1 < len(floating):
            notes.append(
                f"numeric: {done + 1} of {len(floating)} leaves by themselves; all would take "
                f"{spent / (done + 1) * len(floating):.0f} s (leaf_directions=True)"
            )
            break
    return each


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


def _sizes(program, manual, automatic, scales, allowed) -> tuple[float, float]:
    """The root mean square of the gradient's product with a Gaussian direction, and that of its rounding."""
    size = max(gradient_size(program, side) for side in (manual, automatic))
    both = zip(jax.tree.leaves(manual), jax.tree.leaves(automatic), strict=True)
    norms = [max(map(array_norm, pair)) if is_inexact(pair[0]) else 0.0 for pair in both]
    parts = [n * s * a for n, s, a in zip(norms, scales, allowed, strict=True) if math.isfinite(n * s * a)]
    if not math.isfinite(size):
        size = max(gradient_size(program, side, finite=True) for side in (manual, automatic))
    return size, math.hypot(*parts)


def gradient_size(program: Program, gradient: Any, finite: bool = False) -> float:
    """The root mean square of the gradient's product with a Gaussian direction; of its `finite` elements alone."""
    pairs = zip(jax.tree.leaves(gradient), direction_scales(program.inputs), strict=True)
    leaves = ((_finite(leaf) if finite else leaf, scale) for leaf, scale in pairs if is_inexact(leaf))
    return math.hypot(*(array_norm(leaf) * scale for leaf, scale in leaves))


def _finite(leaf: Any) -> np.ndarray:
    leaf = to_float64(leaf)
    return np.where(np.isfinite(leaf), leaf, 0)


def numeric_step(dtype: Any) -> float:
    """The power of two next to u**(1/3), where a central difference's error, h**2 + u / h, is smallest.

    A power of two, so that the lengths are the same numbers in every precision."""
    return 2.0 ** round(math.log2(unit_roundoff(dtype)) / 3)


def _coarsest(traced: TracedProgram) -> Any:
    dtypes = [v.aval.dtype for v, on in zip(traced.closed.jaxpr.invars, traced.active, strict=True) if on]
    return max(dtypes, key=unit_roundoff, default=np.dtype(np.float32))


def gaussian_direction(inputs: Any, scales: list[float], seed: int) -> list[Any]:
    """A direction in float64 as a list of leaves, None for those that cannot move."""
    direction = map_inexact(_gaussian, jax.tree.leaves(inputs), seed, otherwise=lambda leaf: None)
    return [d if d is None else d * scale for d, scale in zip(direction, scales, strict=True)]


def direction_scales(inputs: Any) -> list[float]:
    """How far a direction goes in each leaf: the leaf's own root mean square, so that a tiny leaf is seen beside a huge
    one; for a leaf of zeros, that of all inputs together, or 1."""
    leaves = jax.tree.leaves(inputs)
    overall = _root_mean_square(leaves) or 1.0
    return [_root_mean_square([leaf]) or overall for leaf in leaves]


def _root_mean_square(leaves: list[Any]) -> float:
    leaves = [leaf for leaf in leaves if is_inexact(leaf) and np.size(leaf)]
    norm = math.hypot(*map(array_norm, leaves))
    return norm / math.sqrt(sum(map(np.size, leaves))) if 0 < norm < math.inf else 0.0


def _gaussian(leaf: np.ndarray, random: np.random.Generator) -> np.ndarray:
    numbers = random.standard_normal(leaf.shape)
    return numbers + 1j * random.standard_normal(leaf.shape) if np.iscomplexobj(leaf) else numbers


def product(gradient: Any, direction: list[Any]) -> float:
    """The sum of gradient times direction, the real part where they are complex (JAX's gradient is conjugated)."""
    pairs = [(g, d) for g, d in zip(jax.tree.leaves(gradient), direction, strict=True) if d is not None]
    with np.errstate(invalid="ignore", over="ignore"):
        return math.fsum(float(np.real(np.sum(to_float64(g) * to_float64(d)))) for g, d in pairs if np.any(d))
