"""Pytrees of parameters as vectors over the real numbers: a complex leaf counts as two real ones.

What differs from `optax.tree`: sums are taken in float32 at least, and a leaf keeps its dtype, whatever it is added to
or multiplied with."""

from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop import trees


def dot(u: Any, v: Any) -> jax.Array:
    """The inner product, in float32 at least: a scalar."""
    pairs = list(zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True))
    real = trees.accumulation_dtype(*(x for x, _ in pairs))

    def of_leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        wide = trees.sum_dtype(x)
        return jnp.sum((jnp.conj(x.astype(wide)) * y.astype(wide)).real).astype(real)

    return sum((of_leaf(x, y) for x, y in pairs), start=jnp.zeros((), real))


def norm(v: Any) -> jax.Array:
    return jnp.sqrt(dot(v, v))


def add(u: Any, v: Any, factor: Any = 1.0) -> Any:
    """u + factor v, in the dtypes of u."""
    return jax.tree.map(lambda x, y: x + jnp.asarray(factor, x.dtype) * y.astype(x.dtype), u, v)


def scale(v: Any, factor: Any) -> Any:
    return jax.tree.map(lambda x: x * jnp.asarray(factor, x.dtype), v)


def times(u: Any, v: Any) -> Any:
    """The elementwise product, in the dtypes of v."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype) * y, u, v)
