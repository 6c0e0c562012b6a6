"""Primitives that decide by comparing floating numbers: in float64, the decision of the low-precision run is kept.

Each function takes an equation, its operands as pairs (low, high) and its low outputs, and returns the outputs as
pairs. Ties share as JAX's rules do, so the gradient at a tie is the same convention.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .pairs import Pair


def _extremum(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    """max and min: the winner's high value; of a tie, the mean, so that each gets half of the gradient."""
    (x, xh), (y, yh) = operands
    return [(outputs[0], jnp.where(x == y, (xh + yh) * 0.5, jnp.where(x == outputs[0], xh, yh)))]


def _reduce_extremum(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    """reduce_max and reduce_min: the mean of the winners' high values."""
    ((x, xh),), axes = operands, tuple(equation.params["axes"])
    won = x == lax.expand_dims(outputs[0], axes)
    total = jnp.sum(jnp.where(won, xh, jnp.zeros_like(xh)), axis=axes)
    return [(outputs[0], total / jnp.sum(won, axis=axes).astype(xh.dtype))]


def _abs(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    ((x, xh),) = operands
    if jnp.iscomplexobj(x):
        return [(outputs[0], lax.abs(xh))]
    return [(outputs[0], jnp.where(x >= 0, xh, -xh))]


def _bessel_i0e(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    ((x, xh),) = operands
    return [(outputs[0], bessel_i0e(xh, x))]


def bessel_i0e(xh: Any, x: Any) -> Any:
    """e^(-|x|) I₀(x) with the sign of x for that of xh. At 0, where JAX takes the slope 0 for it and 1 for |x|, it has
    the one that goes with |x|: I₀(x) = e^|x| i0e(x) is smooth."""
    sign = jnp.where(x >= 0, 1, -1).astype(xh.dtype)
    own = lax.sign(xh)
    return lax.bessel_i0e(xh) * lax.exp(jnp.where(own == sign, 0, xh * (own - sign)))


def _clamp(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    """min(max(x, low), high); at a bound no operand gets a gradient, as in JAX."""
    (low, low_h), (x, xh), (high, high_h) = operands
    inside = (x > low) & (x < high)
    raised, lowered = (x < low) & (low < high), (x > high) | (low > high)
    tie = lax.convert_element_type(outputs[0], xh.dtype)
    return [(outputs[0], jnp.where(inside, xh, jnp.where(lowered, high_h, jnp.where(raised, low_h, tie))))]


def _sign(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    """Of a real number it is a decision; of a complex one it turns with it."""
    ((x, xh),) = operands
    return [(outputs[0], lax.sign(xh))] if jnp.iscomplexobj(x) else _whole(equation, operands, outputs)


def _whole(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    """floor, ceil, round, and what a gradient is stopped at: constant."""
    return [(outputs[0], lax.convert_element_type(outputs[0], operands[0][1].dtype))]


def _rem(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    """x - q y with the integer q of the low run."""
    (x, xh), (y, yh) = operands
    quotient = lax.round((x - outputs[0]) / y)
    return [(outputs[0], xh - lax.convert_element_type(quotient, xh.dtype) * yh)]


def _sort(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    params = equation.params
    lows = [low for low, _ in operands]
    positions = lax.broadcasted_iota(np.int32, lows[0].shape, params["dimension"])
    *_, order = lax.sort(
        [*lows, positions], dimension=params["dimension"], is_stable=params["is_stable"], num_keys=params["num_keys"]
    )
    pairs = zip(operands, outputs, strict=True)
    return [(y, None if xh is None else jnp.take_along_axis(xh, order, params["dimension"])) for (_, xh), y in pairs]


def _top_k(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    ((_, xh),), axis = operands, equation.params.get("axis", -1)
    return [(outputs[0], jnp.take_along_axis(xh, outputs[1], axis)), (outputs[1], None)]


def _identity(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    """reduce_precision: rounding is the identity to a derivative."""
    return [(outputs[0], operands[0][1])]


def _convert(equation: Any, operands: Sequence[Pair], outputs: Sequence[Any]) -> list[Pair]:
    """Between floating dtypes nothing changes in float64, but from complex to real."""
    ((_, xh),) = operands
    real = not jnp.iscomplexobj(outputs[0])
    xh = lax.real(xh) if real and jnp.iscomplexobj(xh) else xh
    return [(outputs[0], xh if real else lax.convert_element_type(xh, np.complex128))]


FROZEN_DECISIONS: dict[str, Callable[[Any, Sequence[Pair], Sequence[Any]], list[Pair]]] = {
    "max": _extremum,
    "min": _extremum,
    "reduce_max": _reduce_extremum,
    "reduce_min": _reduce_extremum,
    "abs": _abs,
    "bessel_i0e": _bessel_i0e,
    "clamp": _clamp,
    "stop_gradient": _whole,
    "sign": _sign,
    "floor": _whole,
    "ceil": _whole,
    "round": _whole,
    "rem": _rem,
    "sort": _sort,
    "top_k": _top_k,
    "reduce_precision": _identity,
    "convert_element_type": _convert,
}
