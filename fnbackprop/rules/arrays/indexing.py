"""Reading at indices: gather, dynamic_slice, dynamic_update_slice. `dx` is the cotangent of `x`: same shape and dtype.

A gather reads windows of `x` at the starts `i`: with S the 0-1 matrix of its reads, y = S x and dx = Sᵀ dy, which is a
scatter-add whose dimension numbers are the gather's own under other names. Both modes of the pair treat a start that is
out of range in the same way, by clamping it or by leaving its window out.
"""

import math
from typing import Any

from jax import lax
from jax.lax import GatherDimensionNumbers, GatherScatterMode, ScatterDimensionNumbers

from ...backprop.precision import wide
from ...backprop.registry import vjp_rule
from ...jaxprs.avals import aval_of
from .layouts import explicit_sharding


@vjp_rule("gather", "x, i -> y", wrt="x")
def gather_vjp(
    dy, i, x_aval, *, dimension_numbers, slice_sizes, unique_indices, indices_are_sorted, mode, fill_value=None
):
    """y = S x: dx = Sᵀ dy, one scatter-add. What several windows read is added up in float32 if dy is narrower."""
    flags = scatter_flags(dimension_numbers, slice_sizes, i, unique_indices, indices_are_sorted, mode)
    dy = dy if flags["unique_indices"] else wide(dy)
    zeros = zeros_of(x_aval, dy.dtype)
    return lax.scatter_add(zeros, i, dy, scatter_dimensions(dimension_numbers), **flags)


@vjp_rule("dynamic_slice", "x, *starts -> y", wrt="x")
def dynamic_slice_vjp(dy, starts, x_aval, *, slice_sizes):
    """dx is dy at the places that were read, zero elsewhere; both operations clamp the starts alike."""
    return _update(zeros_of(x_aval, dy.dtype), dy, starts)


@vjp_rule("dynamic_update_slice", "x, u, *starts -> y", wrt="x")
def dynamic_update_slice_vjp_x(dy, u_aval, starts):
    """y = x with u written over a window: dx is dy with zeros in the window."""
    return _update(dy, zeros_of(u_aval, dy.dtype), starts)


@vjp_rule("dynamic_update_slice", "x, u, *starts -> y", wrt="u")
def dynamic_update_slice_vjp_u(dy, u_aval, starts):
    """y = x with u written over a window: du is dy in the window."""
    return lax.dynamic_slice(dy, starts, u_aval.shape, allow_negative_indices=False)


def _update(x, u, starts):
    return lax.dynamic_update_slice(x, u, starts, allow_negative_indices=False)


def write_along(values: Any, indices: Any, axis: int, size: int, mode: str = "promise_in_bounds") -> Any:
    """Each row's values at its distinct indices along `axis`, zero elsewhere: undoes a `take_along_axis`."""
    others = tuple(d for d in range(values.ndim) if d != axis)
    dimensions = ScatterDimensionNumbers((), (axis,), (axis,), others, others)
    shape = tuple(size if d == axis else n for d, n in enumerate(values.shape))
    starts = lax.expand_dims(indices, (indices.ndim,))  # (*values.shape, 1)
    zeros = lax.full(shape, 0, values.dtype, sharding=explicit_sharding(aval_of(values)))
    return lax.scatter_add(zeros, starts, values, dimensions, unique_indices=True, mode=mode)


# ---------------------------------------------------------------- a gather and the scatter that transposes it


def zeros_of(aval: Any, dtype: Any) -> Any:
    """Zeros of an aval's shape, in `dtype`."""
    return lax.full(aval.shape, 0, dtype, sharding=explicit_sharding(aval))


def scatter_dimensions(gather: GatherDimensionNumbers) -> ScatterDimensionNumbers:
    """The scatter that writes where a gather reads: its updates are laid out as the gather's output."""
    return ScatterDimensionNumbers(
        update_window_dims=gather.offset_dims,
        inserted_window_dims=gather.collapsed_slice_dims,
        scatter_dims_to_operand_dims=gather.start_index_map,
        operand_batching_dims=gather.operand_batching_dims,
        scatter_indices_batching_dims=gather.start_indices_batching_dims,
    )


def gather_dimensions(scatter: ScatterDimensionNumbers) -> GatherDimensionNumbers:
    """The gather that reads where a scatter writes: its output is laid out as the scatter's updates."""
    return GatherDimensionNumbers(
        offset_dims=scatter.update_window_dims,
        collapsed_slice_dims=scatter.inserted_window_dims,
        start_index_map=scatter.scatter_dims_to_operand_dims,
        operand_batching_dims=scatter.operand_batching_dims,
        start_indices_batching_dims=scatter.scatter_indices_batching_dims,
    )


def scatter_flags(
    gather: GatherDimensionNumbers, slice_sizes: Any, i: Any, unique: bool, are_sorted: bool, mode: GatherScatterMode
) -> dict[str, Any]:
    """The flags that hold for the writes of a scatter, given what was promised of the indices.

    Distinct starts need not be distinct after clamping, nor, with windows wider than one, write distinct elements; and
    clamping several components of a start one by one can break their lexicographic order.
    """
    clips = mode == GatherScatterMode.CLIP
    overlaps = any(slice_sizes[d] != 1 for d in gather.start_index_map)
    return {
        "unique_indices": one_window(gather, i) or (unique and not clips and not overlaps),
        "indices_are_sorted": are_sorted and (not clips or len(gather.start_index_map) == 1),
        "mode": mode,
    }


def one_window(gather: GatherDimensionNumbers, i: Any) -> bool:
    """Whether each batch element has at most one window, which cannot meet another."""
    batching = gather.start_indices_batching_dims
    return math.prod(n for d, n in enumerate(i.shape[:-1]) if d not in batching) <= 1
