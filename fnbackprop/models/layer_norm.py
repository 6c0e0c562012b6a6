"""Layer normalisation over the last axis: the block `fb.layer_norm`, whose plain definition stands beside it.

Source: J. L. Ba, J. R. Kiros and G. E. Hinton, Layer Normalization, 2016.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop.blocks.norms import layer_norm

Params = dict[str, Any]


def init(*, width: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Params:
    """{"scale": ones of (width,), "bias": zeros of (width,)}; nothing is random, so it takes no key."""
    return {"scale": jnp.ones((width,), dtype), "bias": jnp.zeros((width,), dtype)}


def apply(params: Params, x: jax.Array, *, epsilon: float = 1e-5) -> jax.Array:
    """scale * (x - mean) / sqrt(variance + epsilon) + bias for x of (..., width), in the dtype of x.

    Mean and variance are taken, and the result is put together, in float32 (float64 for float64).
    """
    return layer_norm(x, params["scale"], params["bias"], epsilon=epsilon)
