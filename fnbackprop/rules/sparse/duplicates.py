"""Entries in another order, or those of one position as one: `data` is permuted or added up in groups.

Where each entry goes is found again from the indices; only these are kept. `dx` is the cotangent of `x`.
"""

from typing import Any

from jax import lax
from jax import numpy as jnp

from ...backprop.registry import vjp_rule
from ..arrays.indexing import write_along
from ..expressions import scalar
from .entries import Entries


@vjp_rule("bcoo_sort_indices", "data, indices -> out, ordered", wrt="data")
def bcoo_sort_indices_vjp(dout, data_aval, indices):
    """out[j] = data[p[j]] for the order p of the positions: d data[p[j]] = dout[j]."""
    if indices.shape[-1] == 0:
        return dout
    *_, order = sorted_columns(indices)
    order = lax.expand_dims(order, (order.ndim,))
    return Entries(order, dout.shape).to_dense(dout)


@vjp_rule("bcoo_sum_duplicates", "data, indices -> out, distinct", wrt="data")
def bcoo_sum_duplicates_vjp(dout, indices, *, spinfo):
    """out[j] is the sum of the data of one position, the j-th in order: d data[k] = dout[j] for the j of k, zero for an
    entry that found no place in `out`."""
    return duplicates_vjp(dout, indices, spinfo.shape)


def duplicates_vjp(dout: Any, indices: Any, shape: tuple[int, ...]) -> Any:
    """The cotangent of the values at these positions, from that of their sums for each distinct one."""
    slot = distinct_number(indices, shape)
    return Entries(lax.expand_dims(slot, (slot.ndim,)), dout.shape).extract(dout)


def sorted_columns(indices: Any) -> list[Any]:
    """The columns of (*batch, entries, sparse) indices, with the entries in lexicographic order, and which entry came
    to each place."""
    axis, count = indices.ndim - 2, indices.shape[-1]
    columns = [lax.index_in_dim(indices, i, axis + 1, keepdims=False) for i in range(count)]
    number = lax.broadcasted_iota("int32", indices.shape[:-1], axis)
    return list(lax.sort((*columns, number), dimension=axis, num_keys=count))


def distinct_number(indices: Any, shape: tuple[int, ...]) -> Any:
    """Which of all distinct positions, in lexicographic order, each entry has. All that lie out of range count as one,
    the last."""
    *batch, entries, sparse = indices.shape
    if sparse == 0 or entries == 0:
        return lax.full((*batch, entries), 0, indices.dtype)
    sizes = jnp.asarray(shape[len(batch) : len(batch) + sparse], indices.dtype)
    sizes = lax.broadcast_in_dim(sizes, indices.shape, (len(batch) + 1,))
    outside = lax.reduce_or(lax.ge(indices, sizes), (len(batch) + 1,))
    outside = lax.broadcast_in_dim(outside, indices.shape, tuple(range(len(batch) + 1)))
    *columns, order = sorted_columns(lax.select(outside, sizes, indices))
    number = lax.cumsum(_differs_from_last(columns), axis=len(batch))
    return write_along(number, order, len(batch), entries)


def _differs_from_last(columns: list[Any]) -> Any:
    """1 where an entry differs from the one before it in any column, else 0; 0 for the first."""
    axis = columns[0].ndim - 1
    changes = (lax.ne(lax.slice_in_dim(c, 1, None, axis=axis), lax.slice_in_dim(c, 0, -1, axis=axis)) for c in columns)
    changed = next(changes)
    for change in changes:
        changed = lax.bitwise_or(changed, change)
    changed = lax.convert_element_type(changed, "int32")
    return lax.pad(changed, scalar(0, changed), [(0, 0, 0)] * axis + [(1, 0, 0)])
