"""Gated linear units, activation(gate) · x, with their backward written out: the two operands are all that is kept.

    swiglu: activation(a) = a σ(a);    geglu: activation(a) = a Φ(a), or its approximation by tanh

Source: N. Shazeer, GLU Variants Improve Transformer, 2020; of the approximation, D. Hendrycks and K. Gimpel, Gaussian
Error Linear Units, 2016.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ..trees import accumulation_dtype
from .block import block

Array = jax.Array


def swiglu(gate: Array, x: Array) -> Array:
    """silu(gate) · x, keeping no more for the backward than the two of them: half of what plain code may keep.

    It works under `jax.grad` and `fb.grad` alike, and computes in float32 (float64 for float64).

    Args:
        gate, x: of one shape: usually the two products with which an MLP begins.
    Returns:
        An array of that shape, in the dtype of x.
    Raises:
        ValueError: the shapes differ. TypeError: the numbers are not real and floating.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> print(jax.grad(fb.swiglu, (0, 1))(jnp.array(0.0), jnp.array(3.0)))
        (Array(1.5, dtype=float32), Array(0., dtype=float32))
    """
    _require_fit("swiglu", gate, x)
    return _swiglu(gate, x, activation="silu")


def geglu(gate: Array, x: Array, *, approximate: bool = True) -> Array:
    """gelu(gate) · x; otherwise as `swiglu`.

    Args:
        gate, x: of one shape.
        approximate: whether Φ is approximated by tanh, as by default in `jax.nn.gelu`.
    Returns:
        An array of that shape, in the dtype of x.
    Raises:
        ValueError: the shapes differ. TypeError: the numbers are not real and floating.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> print(jax.grad(fb.geglu, (0, 1))(jnp.array(0.0), jnp.array(3.0)))
        (Array(1.5, dtype=float32), Array(0., dtype=float32))
    """
    _require_fit("geglu", gate, x)
    return _geglu(gate, x, activation="gelu by tanh" if approximate else "gelu")


def plain_gated(gate, x, *, activation):
    """The definition."""
    dtype = accumulation_dtype(gate, x)
    function = {
        "silu": jax.nn.silu,
        "gelu": lambda a: jax.nn.gelu(a, approximate=False),
        "gelu by tanh": jax.nn.gelu,
    }[activation]
    return (function(gate.astype(dtype)) * x.astype(dtype)).astype(x.dtype)


def gated_forward(gate, x, *, activation):
    dtype = accumulation_dtype(gate, x)
    y, _ = ACTIVATIONS[activation](gate.astype(dtype))  # 1
    out = y * x.astype(dtype)  # 2
    return out.astype(x.dtype), (gate, x)


def gated_backward(residuals, dout, *, activation):
    gate, x = residuals
    dtype = accumulation_dtype(gate, x)
    y, slope = ACTIVATIONS[activation](gate.astype(dtype))  # of line 1, anew
    dout = dout.astype(dtype)
    return dout * x.astype(dtype) * slope, dout * y  # through 2, and 1


_swiglu = block(gated_forward, gated_backward, plain=plain_gated, name="swiglu")
_geglu = block(gated_forward, gated_backward, plain=plain_gated, name="geglu")


# ---------------------------------------------------------------- activations: (value, slope)


def _silu(a: Array) -> tuple[Array, Array]:
    s = lax.logistic(a)
    return a * s, s * (1 + a * (1 - s))


def _gelu(a: Array) -> tuple[Array, Array]:
    """Φ' is the normal density."""
    phi = 0.5 * lax.erfc(-math.sqrt(0.5) * a)
    return a * phi, phi + a * lax.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)


def _gelu_by_tanh(a: Array) -> tuple[Array, Array]:
    """Φ ≈ (1 + tanh(u)) / 2 with u = √(2/π) (a + 0.044715 a³)."""
    c, third = math.sqrt(2 / math.pi), 0.044715
    t = lax.tanh(c * (a + third * a**3))
    phi = 0.5 * (1 + t)
    return a * phi, phi + 0.5 * a * (1 - t * t) * c * (1 + 3 * third * a * a)


ACTIVATIONS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu by tanh": _gelu_by_tanh,
}


def _require_fit(name: str, gate: Array, x: Array) -> None:
    if gate.shape != x.shape:
        raise ValueError(f"{name}: the gate of shape {gate.shape} must have the shape {x.shape} of x.")
    if not all(jnp.issubdtype(a.dtype, jnp.floating) for a in (gate, x)):
        raise TypeError(f"{name}: gate and x must be real floating numbers, got {gate.dtype} and {x.dtype}.")
