"""Layer normalisation over the last axis.

Source: J. L. Ba, J. R. Kiros and G. E. Hinton, Layer Normalization, 2016.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnbackprop.trees import accumulation_dtype

Params = dict[str, Any]


def init(*, width: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Params:
    """{"scale": ones of (width,), "bias": zeros of (width,)}; nothing is random, so it takes no key."""
    return {"scale": jnp.ones((width,), dtype), "bias": jnp.zeros((width,), dtype)}


def apply(params: Params, x: jax.Array, *, epsilon: float = 1e-5) -> jax.Array:
    """scale * (x - mean) / sqrt(variance + epsilon) + bias for x of (..., width), in the dtype of x.

    Mean and variance are taken, and the result is put together, in float32 (float64 for float64).
    """
    dtype = accumulation_dtype(x)
    scale, bias = (jnp.broadcast_to(params[name].astype(dtype), x.shape) for name in ("scale", "bias"))
    centred = x.astype(dtype) - jnp.mean(x, axis=-1, keepdims=True, dtype=dtype)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (scale * (centred * lax.rsqrt(variance + epsilon)) + bias).astype(x.dtype)
