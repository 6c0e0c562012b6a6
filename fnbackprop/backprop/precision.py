"""The precision in which sums are taken: float32 where values are narrower; the engine rounds the result once."""

from functools import lru_cache
from typing import Any

import jax.numpy as jnp
from jax import lax


@lru_cache(maxsize=64)
def wide_dtype(dtype: Any) -> Any:
    """The dtype in which values of `dtype` are added up: float32 for narrower floats, else its own."""
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if narrow else dtype


def wide(x: Any) -> Any:
    """`x` in the dtype in which it is added up."""
    dtype = wide_dtype(x.dtype)
    return x if dtype == x.dtype else lax.convert_element_type(x, dtype)
