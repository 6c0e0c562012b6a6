"""Primitives that move, reduce, sort and multiply arrays, by name, as in `pointwise.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np


def identity(x: Any, **_: Any) -> Any:
    return x


def identities(*xs: Any, **_: Any) -> list[Any]:
    return list(xs)


# ---------------------------------------------------------------- shapes


def broadcast_in_dim(x: Any, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> Any:
    sizes = [1] * len(shape)
    for axis, place in enumerate(broadcast_dimensions):
        sizes[place] = x.shape[axis]
    return np.broadcast_to(x.reshape(sizes), shape)


def reshape(x: Any, *, new_sizes: Any, dimensions: Any, **_: Any) -> Any:
    return (x if dimensions is None else np.transpose(x, dimensions)).reshape(new_sizes)


def transpose(x: Any, *, permutation: Any, **_: Any) -> Any:
    return np.transpose(x, permutation)


def squeeze(x: Any, *, dimensions: Any, **_: Any) -> Any:
    return np.squeeze(x, tuple(dimensions))


def expand_dims(x: Any, *, dimensions: Any, **_: Any) -> Any:
    return np.expand_dims(x, tuple(dimensions))


def rev(x: Any, *, dimensions: Any, **_: Any) -> Any:
    return np.flip(x, tuple(dimensions))


def concatenate(*xs: Any, dimension: int, **_: Any) -> Any:
    return np.concatenate(xs, dimension)


def iota(*_sizes: Any, dtype: Any, shape: Any, dimension: int, **_: Any) -> Any:
    sizes = [size if axis == dimension else 1 for axis, size in enumerate(shape)]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(sizes), shape)


def split(x: Any, *, sizes: Any, axis: int, **_: Any) -> list[Any]:
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def pad(x: Any, value: Any, *, padding_config: Any, **_: Any) -> Any:
    """Numbers between elements first; a negative edge cuts."""
    spread = np.full([n + max(n - 1, 0) * c[2] for n, c in zip(x.shape, padding_config, strict=True)], value)
    spread[tuple(slice(None, None, between + 1) for _, _, between in padding_config)] = x
    cuts = ((max(-low, 0), max(-high, 0)) for low, high, _ in padding_config)
    kept = tuple(slice(low, n - high) for n, (low, high) in zip(spread.shape, cuts, strict=True))
    edges = [(max(low, 0), max(high, 0)) for low, high, _ in padding_config]
    return np.pad(spread[kept], edges, constant_values=value) if edges else spread


def slice_(x: Any, *, start_indices: Any, limit_indices: Any, strides: Any, **_: Any) -> Any:
    steps = strides or (None,) * len(start_indices)
    return x[tuple(map(slice, start_indices, limit_indices, steps))]


def dynamic_slice(x: Any, *starts: Any, slice_sizes: Any, **_: Any) -> Any:
    return x[_window(x.shape, starts, slice_sizes)]


def dynamic_update_slice(x: Any, update: Any, *starts: Any, **_: Any) -> Any:
    changed = np.array(x)
    changed[_window(x.shape, starts, update.shape)] = update
    return changed


def _window(shape: Any, starts: Any, sizes: Any) -> tuple[slice, ...]:
    """A window of these sizes, moved into the array."""
    found = [min(max(int(start), 0), n - size) for n, start, size in zip(shape, starts, sizes, strict=True)]
    return tuple(slice(start, start + size) for start, size in zip(found, sizes, strict=True))


# ---------------------------------------------------------------- reductions


def _reduction(function: Callable) -> Callable:
    def reduce(x: Any, *, axes: Any, **_: Any) -> Any:
        return np.asarray(function(x, axis=tuple(axes)), x.dtype)

    return reduce


def _position(function: Callable) -> Callable:
    def find(x: Any, *, axes: Any, index_dtype: Any, **_: Any) -> Any:
        return np.asarray(function(x, axis=axes[0]), index_dtype)

    return find


def _cumulative(ufunc: np.ufunc) -> Callable:
    def accumulate(x: Any, *, axis: int, reverse: bool, **_: Any) -> Any:
        found = ufunc.accumulate(np.flip(x, axis) if reverse else x, axis, dtype=x.dtype)
        return np.flip(found, axis) if reverse else found

    return accumulate


# ---------------------------------------------------------------- sorting


def sort(*xs: Any, dimension: int, num_keys: int, **_: Any) -> list[Any]:
    order = np.lexsort([np.moveaxis(x, dimension, -1) for x in xs[num_keys - 1 :: -1]], axis=-1)
    order = np.moveaxis(order, -1, dimension)
    return [np.take_along_axis(x, order, dimension) for x in xs]


def top_k(x: Any, *, k: int, axis: int = -1, **_: Any) -> list[Any]:
    order = np.argsort(-x, axis=axis, kind="stable").take(range(k), axis)
    return [np.take_along_axis(x, order, axis), order.astype(np.int32)]


# ---------------------------------------------------------------- collectives of one device


def _over_devices(function: Callable) -> Callable:
    """Over named axes there is one device; a number is an axis of the array, which `vmap` has made of a name."""

    def reduce(x: Any, *, axes: Any, **_: Any) -> Any:
        return function(x, axis=tuple(axis for axis in axes if isinstance(axis, int)))

    return reduce


def all_gather(x: Any, *, all_gather_dimension: int, tiled: bool, **_: Any) -> Any:
    return x if tiled else np.expand_dims(x, all_gather_dimension)


# ---------------------------------------------------------------- products


def dot_general(x: Any, y: Any, *, dimension_numbers: Any, preferred_element_type: Any, **_: Any) -> Any:
    """Both as (batch, free, contracted): one product of matrices for each element of the batch."""
    (x_contracted, y_contracted), (x_batch, y_batch) = dimension_numbers
    x_free = [axis for axis in range(x.ndim) if axis not in (*x_contracted, *x_batch)]
    y_free = [axis for axis in range(y.ndim) if axis not in (*y_contracted, *y_batch)]
    batch = [x.shape[axis] for axis in x_batch]
    free = [x.shape[axis] for axis in x_free], [y.shape[axis] for axis in y_free]
    length = int(np.prod([x.shape[axis] for axis in x_contracted]))
    left = np.transpose(x, (*x_batch, *x_free, *x_contracted)).reshape(*batch, int(np.prod(free[0])), length)
    right = np.transpose(y, (*y_batch, *y_contracted, *y_free)).reshape(*batch, length, int(np.prod(free[1])))
    product = (left @ right).reshape(*batch, *free[0], *free[1])
    return product if preferred_element_type is None else product.astype(preferred_element_type)


ARRAYS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("copy", "copy_p", "pvary", "stop_gradient", "name", "reshard", "sharding_constraint"), identity),
    "optimization_barrier": identities,
    **dict.fromkeys(("psum", "psum_invariant"), _over_devices(np.sum)),
    "pmax": _over_devices(np.max),
    "pmin": _over_devices(np.min),
    **dict.fromkeys(("all_gather", "all_gather_invariant"), all_gather),
    "axis_index": lambda **_: np.zeros((), np.int32),
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "transpose": transpose,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "rev": rev,
    "concatenate": concatenate,
    "iota": iota,
    "split": split,
    "pad": pad,
    "slice": slice_,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "reduce_sum": _reduction(np.sum),
    "reduce_prod": _reduction(np.prod),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_and": _reduction(np.all),
    "reduce_or": _reduction(np.any),
    "argmax": _position(np.argmax),
    "argmin": _position(np.argmin),
    "cumsum": _cumulative(np.add),
    "cumprod": _cumulative(np.multiply),
    "cummax": _cumulative(np.maximum),
    "cummin": _cumulative(np.minimum),
    "cumlogsumexp": _cumulative(np.logaddexp),
    "sort": sort,
    "top_k": top_k,
    "dot_general": dot_general,
}
