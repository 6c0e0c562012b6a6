"""Layer normalisation and root-mean-square normalisation over the last axis, with their backward written out.

    n = (x - mean x) / sqrt(mean (x - mean x)² + ε),    y = scale n + bias;    of rms_norm, without mean x and bias

The backward keeps x and two numbers of each row, and makes n again. Sources: J. L. Ba, J. R. Kiros and G. E. Hinton,
Layer Normalization, 2016; B. Zhang and R. Sennrich, Root Mean Square Layer Normalization, 2019.

Shapes in this file: x (..., width), scale and bias (width,) or None.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..trees import accumulation_dtype
from .block import block

Array = jax.Array


def layer_norm(x: Array, scale: Array | None = None, bias: Array | None = None, *, epsilon: float = 1e-5) -> Array:
    """scale (x - mean) / sqrt(variance + epsilon) + bias over the last axis, faster and with less to keep.

    It works under `jax.grad` and `fb.grad` alike. Mean and variance are taken, and the result is put together, in
    float32 (float64 for float64).

    Args:
        x: (..., width).
        scale, bias: (width,), or None for none.
        epsilon: a small number that is added to the variance, so that rows of equal numbers give 0 and not NaN.
    Returns:
        (..., width), in the dtype of x.
    Raises:
        ValueError: shapes do not fit. TypeError: the numbers are not real and floating.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> x = jnp.array([1.0, 2.0, 6.0])
        >>> print(fb.layer_norm(x), jax.grad(lambda x: fb.layer_norm(x)[0])(x))
        [-0.9258... -0.4629...  1.3887...] [ 0.1763... -0.2204...  0.0440...]
    """
    _require_fit("layer_norm", x, scale=scale, bias=bias)
    return _layer_norm(x, scale, bias, centred=True, epsilon=float(epsilon))


def rms_norm(x: Array, scale: Array | None = None, *, epsilon: float = 1e-6) -> Array:
    """scale x / sqrt(mean x² + epsilon) over the last axis, faster and with less to keep; otherwise as `layer_norm`.

    Args:
        x: (..., width).
        scale: (width,), or None for none.
        epsilon: a small number that is added to the mean square.
    Returns:
        (..., width), in the dtype of x.
    Raises:
        ValueError: shapes do not fit. TypeError: the numbers are not real and floating.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> x = jnp.array([1.0, 7.0])
        >>> print(fb.rms_norm(x), jax.grad(lambda x: fb.rms_norm(x)[0])(x))
        [0.1999... 1.3999...] [ 0.196... -0.0279...]
    """
    _require_fit("rms_norm", x, scale=scale)
    return _rms_norm(x, scale, None, centred=False, epsilon=float(epsilon))


def plain_norm(x, scale, bias, *, centred, epsilon):
    """The definition."""
    dtype = accumulation_dtype(x)
    x, before = x.astype(dtype), x.dtype
    x = x - jnp.mean(x, -1, keepdims=True) if centred else x
    n = x * lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + epsilon)
    return _scaled(n, scale, bias).astype(before)


def norm_forward(x, scale, bias, *, centred, epsilon):
    wide = x.astype(accumulation_dtype(x))
    mean = jnp.mean(wide, -1, keepdims=True) if centred else None  # 1
    c = wide if mean is None else wide - mean  # 2
    r = lax.rsqrt(jnp.mean(jnp.square(c), -1, keepdims=True) + epsilon)  # 3
    n = c * r  # 4
    y = _scaled(n, scale, bias)  # 5
    return y.astype(x.dtype), (x, scale, bias, mean, r)


def norm_backward(residuals, dy, *, centred):
    x, scale, bias, mean, r = residuals
    wide, dy = x.astype(r.dtype), dy.astype(r.dtype)
    n = (wide - mean if centred else wide) * r  # of lines 2 and 4, anew
    dscale = None if scale is None else _over_rows(dy * n)  # through 5
    dbias = None if bias is None else _over_rows(dy)  # through 5
    dn = _scaled(dy, scale, None)  # through 5
    dx = r * (dn - n * jnp.mean(dn * n, -1, keepdims=True))  # through 4 and 3: dr/dc = -r³ c / width
    dx = dx - jnp.mean(dx, -1, keepdims=True) if centred else dx  # through 2 and 1
    return dx, dscale, dbias


_layer_norm = block(norm_forward, norm_backward, plain=plain_norm, name="layer_norm")
_rms_norm = block(norm_forward, norm_backward, plain=plain_norm, name="rms_norm")


def _scaled(n: Array, scale: Array | None, bias: Array | None) -> Array:
    n = n if scale is None else n * jnp.broadcast_to(scale.astype(n.dtype), n.shape)
    return n if bias is None else n + jnp.broadcast_to(bias.astype(n.dtype), n.shape)


def _over_rows(x: Array) -> Array:
    return jnp.sum(x, tuple(range(x.ndim - 1)))


def _require_fit(name: str, x: Array, **parameters: Any) -> None:
    if x.ndim == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise (ValueError if x.ndim == 0 else TypeError)(
            f"{name}: x must be real floating numbers of (..., width), got {x.dtype} of shape {x.shape}."
        )
    for parameter, value in parameters.items():
        if value is not None and value.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: {parameter} of shape {value.shape} must be {x.shape[-1:]}, with x of shape {x.shape}."
            )
        if value is not None and not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(f"{name}: {parameter} must be real floating numbers, got {value.dtype}.")
