"""The product of two sparse arrays, which is one."""

from functools import reduce
from typing import Any, NamedTuple

from jax import lax
from jax import numpy as jnp

from ...backprop.registry import vjp_rule
from ..arrays.layouts import inverse, sum_over
from ..products.dot import Axes, operand_axes
from .duplicates import duplicates_vjp


@vjp_rule("bcoo_spdot_general", "x, x_indices, y, y_indices -> z, z_indices")
def bcoo_spdot_general_vjp(dz, x, x_indices, y, y_indices, active, *, lhs_spinfo, rhs_spinfo, dimension_numbers):
    """z[j] = Σ x[k] y[l] over the pairs of entries whose contracted positions are equal and whose others are the j-th:
    with j of the pair (k, l), dx[k] = Σ_l dz[j] y[l] and dy[l] = Σ_k dz[j] x[k]."""
    x_axes, y_axes = operand_axes(dimension_numbers, len(lhs_spinfo.shape), len(rhs_spinfo.shape))
    # The axes of the pairs: batch axes of both, those of x, those of y, entries of x, entries of y.
    pairs = (*dz.shape[:-1], x.shape[-1], y.shape[-1])
    both, x_own = len(x_axes.batch), x.ndim - 1 - len(x_axes.batch)
    x_at = (*range(both + x_own), len(pairs) - 2)
    y_at = (*range(both), *range(both + x_own, len(pairs) - 2), len(pairs) - 1)
    left = Factor.of(x, x_indices, lhs_spinfo.shape, x_axes, x_at, pairs)
    right = Factor.of(y, y_indices, rhs_spinfo.shape, y_axes, y_at, pairs)
    dpairs = _dpairs(dz, left, right, pairs)
    dx = left.gathered(lax.mul(*_alike(dpairs, right.data))) if active[0] else None
    dy = right.gathered(lax.mul(*_alike(dpairs, left.data))) if active[2] else None
    return dx, None, dy, None


class Factor(NamedTuple):
    """One factor, laid out along the pairs: its values and its positions along contracted and other sparse axes.

    order: of its axes (batch and entries) as they are in the pairs; at: where they lie there."""

    data: Any
    contracted: list[Any]
    contracted_sizes: list[int]
    free: list[Any]
    free_sizes: list[int]
    order: tuple[int, ...]
    at: tuple[int, ...]

    @classmethod
    def of(cls, data: Any, indices: Any, shape: Any, axes: Axes, at: tuple[int, ...], pairs: Any) -> "Factor":
        n_batch = data.ndim - 1
        order = (*axes.batch, *(b for b in range(n_batch) if b not in axes.batch), n_batch)
        free = [axis for axis in axes.free if axis >= n_batch]

        def along_pairs(array):
            return lax.broadcast_in_dim(lax.transpose(array, order), pairs, at)

        def columns(names):
            return [along_pairs(lax.index_in_dim(indices, a - n_batch, n_batch + 1, keepdims=False)) for a in names]

        contracted_sizes, free_sizes = ([shape[a] for a in names] for names in (axes.contract, free))
        return cls(along_pairs(data), columns(axes.contract), contracted_sizes, columns(free), free_sizes, order, at)

    def gathered(self, dpairs: Any) -> Any:
        """The sum over the pairs of each entry, laid out as `data`."""
        kept = sum_over(dpairs, [axis for axis in range(dpairs.ndim) if axis not in self.at])
        return lax.transpose(kept, inverse(self.order))


def _dpairs(dz: Any, left: Factor, right: Factor, pairs: tuple[int, ...]) -> Any:
    """The cotangent of x[k] y[l] of each pair, zero for pairs that do not meet."""
    flat = (*pairs[:-2], pairs[-2] * pairs[-1])
    columns = [lax.reshape(c, (*flat, 1)) for c in _integers(*left.free, *right.free)]
    positions = lax.concatenate(columns, len(flat)) if columns else lax.full((*flat, 0), 0, "int32")
    dpairs = lax.reshape(duplicates_vjp(dz, positions, (*flat[:-1], *left.free_sizes, *right.free_sizes)), pairs)
    meets = [
        lax.bitwise_and(lax.eq(*_integers(a, b)), lax.lt(a, lax.full_like(a, size)))
        for a, b, size in zip(left.contracted, right.contracted, left.contracted_sizes, strict=True)
    ]
    return lax.select(reduce(lax.bitwise_and, meets), dpairs, lax.full_like(dpairs, 0)) if meets else dpairs


def _alike(x: Any, y: Any) -> tuple[Any, Any]:
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return lax.convert_element_type(x, dtype), lax.convert_element_type(y, dtype)


def _integers(*columns: Any) -> list[Any]:
    """Columns of positions in one dtype."""
    dtype = reduce(jnp.promote_types, (c.dtype for c in columns), jnp.dtype("int32"))
    return [lax.convert_element_type(c, dtype) for c in columns]
