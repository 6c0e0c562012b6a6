"""Pytrees of parameters as vectors over the real numbers: a complex leaf counts as two real ones.

What differs from `optax.tree`: sums are taken in float32 at least, and a leaf keeps its dtype, whatever it is added to
or multiplied with."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnbackprop import trees


def dot(u: Any, v: Any) -> jax.Array:
    """The inner product, in float32 at least: a scalar."""
    pairs = list(zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True))
    real = trees.accumulation_dtype(*(x for x, _ in pairs))
    return sum((jnp.sum(_products(x, y)).astype(real) for x, y in pairs), start=jnp.zeros((), real))


def dots(*pairs: tuple[Any, Any]) -> tuple[jax.Array, ...]:
    """Inner products of several pairs of vectors as one sum each leaf, in float32 at least: what they are computed from
    need not be in memory, as it is for a sum alone, which a CPU's library takes."""
    groups = list(zip(*(zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True) for u, v in pairs), strict=True))
    totals = [_sums([_products(x, y) for x, y in group]) for group in groups]
    real = trees.accumulation_dtype(*(x for group in groups for x, _ in group))
    return tuple(sum((one[i].astype(real) for one in totals), start=jnp.zeros((), real)) for i in range(len(pairs)))


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    wide = trees.sum_dtype(x)
    return (jnp.conj(x.astype(wide)) * y.astype(wide)).real


def _sums(arrays: list[jax.Array]) -> list[jax.Array]:
    """Of each array, the sum: along the last axis first, for accuracy."""

    def added(one: Any, other: Any) -> Any:
        return tuple(lax.add(x, y) for x, y in zip(one, other, strict=True))

    zeros = tuple(np.zeros((), x.dtype) for x in arrays)
    rows = lax.reduce(tuple(arrays), zeros, added, (arrays[0].ndim - 1,)) if arrays[0].ndim else tuple(arrays)
    return list(lax.reduce(tuple(rows), zeros, added, tuple(range(rows[0].ndim))))


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
