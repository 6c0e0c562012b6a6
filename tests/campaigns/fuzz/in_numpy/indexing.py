"""Gathers and scatters in numpy, as in `pointwise.py`: windows of an operand, at places that an array says."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode as Mode


def gather(
    x: Any, indices: Any, *, dimension_numbers: Any, slice_sizes: Any, mode: Any, fill_value: Any, **_: Any
) -> Any:
    numbers = dimension_numbers
    batching = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    starts = _starts(x.ndim, indices, numbers.start_index_map, *batching)
    hidden = {*numbers.collapsed_slice_dims, *batching[0]}
    inside, places = _places(x.shape, starts, slice_sizes, hidden)
    found = x[places] if places else np.asarray(x)
    if mode == Mode.FILL_OR_DROP:
        mask = inside.reshape(inside.shape + (1,) * (found.ndim - inside.ndim))
        found = np.where(mask, found, np.asarray(_filling(x.dtype) if fill_value is None else fill_value, x.dtype))
    batch = [axis for axis in range(found.ndim) if axis not in numbers.offset_dims]
    return np.moveaxis(found, range(found.ndim), (*batch, *numbers.offset_dims))


def _filling(dtype: np.dtype) -> Any:
    if np.issubdtype(dtype, np.inexact):
        return np.nan
    if np.issubdtype(dtype, np.bool_):
        return True
    return np.iinfo(dtype).min if np.issubdtype(dtype, np.signedinteger) else np.iinfo(dtype).max


def _starts(rank: int, indices: Any, index_map: Any, batching: Any, indices_batching: Any) -> Any:
    """Where each window starts: (*batch, axis of the operand)."""
    batch = indices.shape[:-1]
    starts = np.zeros((*batch, rank), np.int64)
    for position, axis in enumerate(index_map):
        starts[..., axis] = indices[..., position]
    for axis, own in zip(batching, indices_batching, strict=True):
        sizes = [n if i == own else 1 for i, n in enumerate(batch)]
        starts[..., axis] = np.arange(batch[own]).reshape(sizes)
    return starts


def _places(shape: Any, starts: Any, sizes: Any, hidden: set) -> tuple[Any, tuple]:
    """Which windows lie inside; and for each axis of the operand the indices of all windows: (*batch, *window).

    Windows that do not are moved inside. `hidden` axes are not among those of the window.
    """
    room = np.asarray(shape, np.int64) - np.asarray(sizes, np.int64)
    inside = np.all((starts >= 0) & (starts <= room), -1)
    starts = np.clip(starts, 0, room)
    shown = [axis for axis in range(len(shape)) if axis not in hidden]
    places = []
    for axis in range(len(shape)):
        start = starts[..., axis].reshape(starts.shape[:-1] + (1,) * len(shown))
        width = [sizes[axis] if other == axis else 1 for other in shown]
        places.append(start + np.arange(sizes[axis] if axis in shown else 1).reshape(width or (1,) * len(shown)))
    return inside, tuple(places)


def _scatter(change: Callable[[Any, tuple, Any], None]) -> Callable:
    def scatter(x: Any, indices: Any, updates: Any, *, dimension_numbers: Any, mode: Any, **_: Any) -> Any:
        numbers = dimension_numbers
        batching = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
        starts = _starts(x.ndim, indices, numbers.scatter_dims_to_operand_dims, *batching)
        hidden = {*numbers.inserted_window_dims, *batching[0]}
        window = iter(updates.shape[axis] for axis in numbers.update_window_dims)
        sizes = [1 if axis in hidden else next(window) for axis in range(x.ndim)]
        inside, places = _places(x.shape, starts, sizes, hidden)
        batch = [axis for axis in range(updates.ndim) if axis not in numbers.update_window_dims]
        updates = np.transpose(updates, (*batch, *numbers.update_window_dims))
        if mode != Mode.CLIP:
            places = tuple(np.broadcast_to(place, updates.shape)[inside] for place in places)
            updates = updates[inside]
        changed = np.array(x)
        change(changed, places, updates)
        return changed

    return scatter


def _put(x: Any, places: tuple, updates: Any) -> None:
    x[places] = updates


INDEXING: dict[str, Callable[..., Any]] = {
    "gather": gather,
    "scatter": _scatter(_put),
    "scatter-add": _scatter(np.add.at),
    "scatter-sub": _scatter(np.subtract.at),
    "scatter-mul": _scatter(np.multiply.at),
    "scatter-min": _scatter(np.minimum.at),
    "scatter-max": _scatter(np.maximum.at),
}
