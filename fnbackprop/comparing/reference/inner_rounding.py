"""What the rounding inside a program does to its value and its gradient: measured in float64, with every result inside
a little off.

Shaken inputs do not show what is lost where large numbers nearly cancel behind them. A softmax that is nearly certain
is 1 - tiny, whatever the last bits of its inputs; but its own last bit is all of its logarithm.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnbackprop.jaxprs.compat import quick_compilation

from ..arrays import array_norm, to_float64
from ..gradient_sources import automatic_value_and_grad
from ..program import TracedProgram
from .float64 import STRUCTURED, Float64Run, frozen_value
from .frozen_decisions import FROZEN_DECISIONS, Pair

SAMPLES = 4
SMALLEST = 2.0**-52  # a smaller change of a float64 number would be rounded away
EXACT = frozenset(FROZEN_DECISIONS) | frozenset(
    "neg real imag conj complex copy select_n reshape broadcast_in_dim transpose squeeze rev pad concatenate split "
    "slice dynamic_slice dynamic_update_slice gather scatter stack unstack tile".split()
)


class Shake(NamedTuple):
    """How far every result is off, relatively, and the seed of the signs; both may be traced."""

    size: Any
    seed: Any


class ShakenRun(Float64Run):
    """A run in float64 in which every result that rounds is off by `size`, up or down at random."""

    def __init__(self, users_mode: bool, frozen: bool, shake: Shake):
        super().__init__(users_mode, frozen)
        self.shake, self.equations = shake, 0

    def equation(self, equation: Any, operands: Any) -> list[Pair]:
        outputs = super().equation(equation, operands)
        if equation.primitive.name in STRUCTURED or equation.primitive.name in EXACT:
            return outputs
        self.equations += 1
        return [(low, None if high is None else self._off(high)) for low, high in outputs]

    def _off(self, x: Any) -> Any:
        """The error is a constant to the backward pass, as rounding is."""
        return x + lax.stop_gradient(x * self.shake.size * _signs(x.shape, self.shake.seed + self.equations))


def _signs(shape: tuple[int, ...], seed: Any) -> Any:
    """1 or -1 at each place, as a hash of the place and the seed has it: no array is held for it."""
    bits = lax.iota(np.uint32, max(math.prod(shape), 1)) + jnp.asarray(seed, np.uint32) * np.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return jnp.where(bits[: math.prod(shape)] & np.uint32(1), 1.0, -1.0).reshape(shape)


def value_noise(traced: TracedProgram, size: float, step: Sequence[Any] | None = None) -> float:
    """How far the value is off, absolutely, where every result inside is off by `size`, relatively, and decisions are
    those of the program; 0 where it cannot be run so. `step`: at the active operands plus this."""

    def value(operands, highs, shake):
        run = ShakenRun(traced.users_mode, True, shake)
        return frozen_value(traced.closed, _active(traced), traced.users_mode, run)(operands, highs)

    found = _samples(value, traced, size, step)
    return max((abs(float(moved) - float(found[0])) for moved in found[1:]), default=0.0)


def gradient_noise(traced: TracedProgram, size: float) -> dict[int, float]:
    """How far each active operand's gradient is off, relatively to its norm, where every result of the forward pass is
    off by `size`; nothing where the program cannot be run so."""

    def gradient(operands, highs, shake):
        run = ShakenRun(traced.users_mode, True, shake)
        value = frozen_value(traced.closed, _active(traced), traced.users_mode, run)
        return automatic_value_and_grad(value, argnums=1)(operands, highs)[1]

    found = _samples(gradient, traced, size)
    if not found:
        return {}
    off = [[_distance(a, b) for a, b in zip(moved, found[0], strict=True)] for moved in found[1:]]
    return dict(zip(_active(traced), map(max, zip(*off, strict=True)), strict=True))


def _distance(found: Any, reference: Any) -> float:
    size = array_norm(reference)
    return array_norm(to_float64(found) - to_float64(reference)) / size if size else 0.0


def _active(traced: TracedProgram) -> list[int]:
    return [i for i, on in enumerate(traced.active) if on]


def _samples(function: Callable, traced: TracedProgram, size: float, step: Sequence[Any] | None = None) -> list[Any]:
    """The function's results, first with nothing shaken; none where the program refuses float64."""
    sizes = [0.0, *[max(size, SMALLEST)] * SAMPLES]
    try:
        with jax.enable_x64(True):
            highs = [to_float64(traced.operands[i]) for i in _active(traced)]
            highs = highs if step is None else [x + d for x, d in zip(highs, step, strict=True)]
            run = jax.jit(function, compiler_options=quick_compilation())
            shakes = (Shake(np.float64(s), np.uint32(1000 * i)) for i, s in enumerate(sizes))
            return jax.device_get([run(traced.operands, highs, shake) for shake in shakes])
    except Exception:  # what is the user's may refuse float64 in any way
        return []
