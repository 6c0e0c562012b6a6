"""A function along Gaussian directions: its values on both sides of the point, and what the gradients say they are.

The recorded program is evaluated in float64 where it can be. Some directions move all leaves, each by its own size, and
one moves a single leaf.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.limited_loops import LimitedFunction

from ..arrays import array_norm, is_floating, map_floating, to_float64
from ..program import Program, TracedProgram
from ..reference.float64 import float64_value, frozen_value
from ..reference.inner_rounding import value_noise
from ..tolerance import NOISE, unit_roundoff
from .slopes import Slopes

STEPS = tuple(2.0**-i for i in range(-1, 5))  # from wide to narrow, in units of numeric_step
TAYLOR = tuple(2.0**-i for i in range(6, 10))  # lengths for the rate at which the Taylor remainder falls


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

    def with_noise(self, noise: float) -> "Along":
        """With at least so large an error of one value."""
        return self._replace(slopes=self.slopes._replace(rounding=max(self.slopes.rounding, noise)))


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
        self.compiled = LimitedFunction(values, compiler_options=quick_compilation())
        self.noise = 0.0  # of one value, absolute: what was measured of the rounding inside

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

    def measure_noise(self, seed: int) -> None:
        """How far rounding inside moves a value, which may be a small difference of large numbers."""
        here = NOISE * value_noise(self.traced, self.roundoff)
        self.noise = max(here, self.noise_beside(seed, self.step * STEPS[0]))  # at a point of zeros nothing rounds

    def noise_beside(self, seed: int, length: float) -> float:
        """The same at so long a step along the direction of this seed."""
        direction = gaussian_direction(self.program.inputs, self.scales, seed)
        step = [length * d for d in direction if d is not None]
        return NOISE * value_noise(self.traced, self.roundoff, step)

    def along(
        self, manual: Any, automatic: Any, seed: int, leaf: int | None = None, lengths: np.ndarray | None = None
    ) -> Along:
        """The function along the direction of this seed; of one leaf alone, if that is named."""
        direction = gaussian_direction(self.program.inputs, self.scales, seed)
        if leaf is not None:
            direction = [d if i == leaf or d is None else np.zeros_like(d) for i, d in enumerate(direction)]
        return self.along_direction(manual, automatic, direction, lengths)

    def along_direction(
        self, manual: Any, automatic: Any, direction: list[Any], lengths: np.ndarray | None = None
    ) -> Along:
        """The function along a direction: a list of leaves, None for those that cannot move.

        lengths: of the steps, from wide to narrow; by default those at which differences are most exact."""
        lengths = self.step * np.array(STEPS) if lengths is None else lengths
        count, every = len(lengths), np.concatenate([[0.0], lengths, -lengths, TAYLOR])
        moving = [d for d in direction if d is not None]
        with jax.enable_x64(self.in_float64 or self.traced.users_mode):
            highs = [to_float64(self.traced.operands[i]) for i in self.active] if self.in_float64 else []
            values = np.asarray(self.compiled(self.traced.operands, highs, moving, every), np.float64)
        largest = float(np.nanmax(np.abs(values[: 2 * count + 1]), initial=0.0))
        here, ahead, behind = values[0], values[1 : count + 1], values[count + 1 : 2 * count + 1]
        slopes = Slopes(lengths, here, ahead, behind, max(4 * self.roundoff * largest, self.noise))
        return Along(slopes, values[2 * count + 1 :], *(product(g, direction) for g in (manual, automatic)))


def numeric_step(dtype: Any) -> float:
    """The power of two next to u**(1/3), where a central difference's error, h**2 + u / h, is smallest.

    A power of two, so that the lengths are the same numbers in every precision."""
    return 2.0 ** round(math.log2(unit_roundoff(dtype)) / 3)


def _coarsest(traced: TracedProgram) -> Any:
    dtypes = [v.aval.dtype for v, on in zip(traced.closed.jaxpr.invars, traced.active, strict=True) if on]
    return max(dtypes, key=unit_roundoff, default=np.dtype(np.float32))


def gaussian_direction(inputs: Any, scales: list[float], seed: int) -> list[Any]:
    """A direction in float64 as a list of leaves, None for those that cannot move."""
    direction = map_floating(_gaussian, jax.tree.leaves(inputs), seed, otherwise=lambda leaf: None)
    return [d if d is None else d * scale for d, scale in zip(direction, scales, strict=True)]


def direction_scales(inputs: Any) -> list[float]:
    """How far a direction goes in each leaf: the leaf's own root mean square, so that a tiny leaf is seen beside a huge
    one; for a leaf of zeros, that of all inputs together, or 1."""
    leaves = jax.tree.leaves(inputs)
    overall = _root_mean_square(leaves) or 1.0
    return [_root_mean_square([leaf]) or overall for leaf in leaves]


def _root_mean_square(leaves: list[Any]) -> float:
    leaves = [leaf for leaf in leaves if is_floating(leaf) and np.size(leaf)]
    norm = math.hypot(*map(array_norm, leaves))
    return norm / math.sqrt(sum(map(np.size, leaves))) if 0 < norm < math.inf else 0.0


def _gaussian(leaf: np.ndarray, random: np.random.Generator) -> np.ndarray:
    numbers = random.standard_normal(leaf.shape)
    return numbers + 1j * random.standard_normal(leaf.shape) if np.iscomplexobj(leaf) else numbers


def product(gradient: Any, direction: list[Any]) -> float:
    """The sum of gradient times direction, the real part where they are complex (JAX's gradient is conjugated)."""
    pairs = [(g, d) for g, d in zip(jax.tree.leaves(gradient), direction, strict=True) if d is not None]
    with np.errstate(invalid="ignore", over="ignore"):
        terms = [float(np.real(np.sum(to_float64(g) * to_float64(d)))) for g, d in pairs if np.any(d)]
    return math.fsum(terms) if all(map(math.isfinite, terms)) else sum(terms)  # fsum refuses inf - inf, which is NaN


def gradient_size(program: Program, gradient: Any, finite: bool = False) -> float:
    """The root mean square of the gradient's product with a Gaussian direction; of its `finite` elements alone."""
    pairs = zip(jax.tree.leaves(gradient), direction_scales(program.inputs), strict=True)
    leaves = ((_finite(leaf) if finite else leaf, scale) for leaf, scale in pairs if is_floating(leaf))
    return math.hypot(*(array_norm(leaf) * scale for leaf, scale in leaves))


def _finite(leaf: Any) -> np.ndarray:
    leaf = to_float64(leaf)
    return np.where(np.isfinite(leaf), leaf, 0)
