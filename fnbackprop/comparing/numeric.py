"""The numeric witness: differences of the function itself, which share no rule with either backward."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .leaves import array_norm, wide
from .program import Facts, Program, unit_roundoff
from .verdict import NOISE_LIMIT, NumericComparison, Verdict
from .witnesses import is_inexact, map_inexact

STEPS = tuple(2.0**-i for i in range(-1, 5))  # from wide to narrow, in units of numeric_step


class Differences(NamedTuple):
    """One direction: what the function does along it, and what the gradients say it does.

    Attributes:
      slopes: central differences, one for each of STEPS.
      manual, automatic: the gradients' products with the direction.
      value: the largest magnitude of the function's values that entered.
    """

    slopes: np.ndarray
    manual: float
    automatic: float
    value: float


def compare_numeric(
    program: Program, facts: Facts, manual: Any, automatic: Any, directions: int, seed: int
) -> NumericComparison:
    """Hold both gradients against differences along `directions` Gaussian directions.

    Distances are relative to the size that the derivative in a Gaussian direction has, the norm of the scaled gradient,
    and not to the derivative itself, which is near zero in an unlucky direction. What is allowed is seen from the
    differences themselves, see `best_step`.
    """
    step = numeric_step(facts.dtype)
    found = differences(program, manual, automatic, step, range(seed, seed + directions))
    noise = 4 * unit_roundoff(facts.dtype) * max(d.value for d in found) / step
    chosen, allowed = best_step(np.stack([d.slopes for d in found]), noise)
    size = max(gradient_size(program, manual), gradient_size(program, automatic), noise)
    sides = ([d.manual for d in found], [d.automatic for d in found])
    worst = [max(abs(d.slopes[chosen] - by) for d, by in zip(found, side, strict=True)) / size for side in sides]
    verdict, reason = _judge(*worst, allowed / size, facts)
    return NumericComparison(verdict, reason, directions, *worst, allowed / size)


def best_step(slopes: np.ndarray, noise: float) -> tuple[int, float]:
    """The step whose differences are the surest, and how far from the truth they may be.

    A smooth function's differences converge as h**2, those of one with kinks (ReLU) as an irregular h: so what is
    allowed for a step is three times the widest distance, in any direction, from the differences of the two wider and
    the two narrower steps; and on top of it the rounding of the function's values. (Seen with a ReLU network in
    float32, where it is hardest: 1,600 comparisons, the error at most 0.91 of what is allowed.)

    Args:
      slopes: (directions, steps).
      noise: of the slopes at the unit step; it grows as the step shrinks.
    """
    steps = slopes.shape[1]
    spread = [np.max(np.abs(slopes[:, max(0, i - 2) : i + 3] - slopes[:, [i]])) for i in range(1, steps - 1)]
    bounds = 3 * np.array(spread) + noise / np.array(STEPS[1:-1])
    best = int(np.argmin(np.where(np.isfinite(bounds), bounds, np.inf)))
    return best + 1, float(bounds[best])


def _judge(manual: float, automatic: float, allowed: float, facts: Facts) -> tuple[Verdict, str]:
    if not math.isfinite(manual + automatic + allowed):
        return Verdict.NON_FINITE, "a difference or a gradient is NaN or infinite"
    if manual <= allowed:
        limited = allowed > NOISE_LIMIT
        return (
            (Verdict.NOISE_LIMITED, "a kink or a jump is near, or rounding is too coarse")
            if limited
            else (Verdict.PASS, "")
        )
    if automatic <= allowed:
        return Verdict.FAIL, "the differences agree with automatic, not with manual"
    return Verdict.FAIL, f"the differences agree with neither: {_what_hides(facts)}"


def _what_hides(facts: Facts) -> str:
    stopped = f"; gradients are stopped at {', '.join(facts.stop_gradients)}" if facts.stop_gradients else ""
    return f"a custom rule is wrong, or stops a gradient on purpose, or a kink is near{stopped}"


def gradient_size(program: Program, gradient: Any) -> float:
    """The root mean square of the gradient's product with a Gaussian direction."""
    pairs = zip(jax.tree.leaves(gradient), direction_scales(program.inputs), strict=True)
    return math.hypot(*(array_norm(leaf) * scale for leaf, scale in pairs if is_inexact(leaf)))


def numeric_step(dtype: Any) -> float:
    """u**(1/3), where the error of a central difference, h**2 + u / h, is smallest for a smooth function."""
    return unit_roundoff(dtype) ** (1 / 3)


def differences(program: Program, manual: Any, automatic: Any, step: float, seeds: Iterable[int]) -> list[Differences]:
    """Central differences along a Gaussian direction of about the inputs' size, for each seed."""
    scales = direction_scales(program.inputs)
    lengths = np.array(STEPS) * step

    @jax.jit
    def along(direction, inputs, others):
        moves = jnp.concatenate([lengths, -lengths])
        return jax.lax.map(lambda length: program.function(_moved(inputs, direction, length), others), moves)

    def measure(seed):
        direction = gaussian_direction(program.inputs, scales, seed)
        values = np.asarray(along(direction, program.inputs, program.others), np.float64)
        slopes = (values[: len(lengths)] - values[len(lengths) :]) / (2 * lengths)
        products = (_product(gradient, direction) for gradient in (manual, automatic))
        return Differences(slopes, *products, float(np.max(np.abs(values))))

    return [measure(seed) for seed in seeds]


def gaussian_direction(inputs: Any, scales: list[float], seed: int) -> list[Any]:
    """A direction as a list of leaves, None for those that cannot move."""
    direction = map_inexact(_gaussian, jax.tree.leaves(inputs), seed, otherwise=lambda leaf: None)
    return [d if d is None else (d * scale).astype(d.dtype) for d, scale in zip(direction, scales, strict=True)]


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
    if np.iscomplexobj(leaf):
        numbers = numbers + 1j * random.standard_normal(leaf.shape)
    return numbers.astype(leaf.dtype)


def _moved(inputs: Any, direction: list[Any], length: jax.Array) -> Any:
    leaves, structure = jax.tree.flatten(inputs)
    pairs = zip(leaves, direction, strict=True)
    return jax.tree.unflatten(structure, [x if d is None else x + d * length.astype(d.dtype) for x, d in pairs])


def _product(gradient: Any, direction: list[Any]) -> float:
    """The sum of gradient times direction, the real part where they are complex (JAX's gradient is conjugated)."""
    pairs = [(g, d) for g, d in zip(jax.tree.leaves(gradient), direction, strict=True) if d is not None]
    return math.fsum(float(np.real(np.sum(wide(g) * wide(d)))) for g, d in pairs)
