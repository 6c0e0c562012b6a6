"""Collectives: primitives that combine the values of several devices, under `shard_map` or an axis name of `vmap`.

x_d is device d's value; a collective is a linear map of the stack of them (pmax and pmin aside), and its rule is that
map's transpose. With `check_vma`, a value's type says over which axes it *varies*. One that does not is a single
value, held by every device, and so is its cotangent: pvary makes a stack out of one value, and psum_invariant one
value out of a stack. *Unreduced* is a value given by its terms, one a device; *reduced*, one whose cotangent is.

Sums over devices are taken in float32 where the cotangent is narrower. `dx` is the cotangent of `x`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from ...backprop.memory.recompute_barrier import in_memory
from ...backprop.precision import wide
from ...backprop.registry import vjp_rule
from ...jaxprs.avals import aval_of, varying_axes, zeros_like_aval
from ..arrays.layouts import spread
from ..expressions import scalar


def device_sum(x: Any, axes: Sequence[Any], groups: Any = None) -> Any:
    """Σ over the devices along `axes`, in a wide accumulator, rounded once, to the dtype of `x`."""
    if not axes:
        return x
    return lax.convert_element_type(lax.psum(wide(x), tuple(axes), axis_index_groups=groups), x.dtype)


def _names(axis_name: Any) -> tuple[Any, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


# ---------------------------------------------------------------- sums


@vjp_rule("psum")
def psum_vjp(dy, x_aval, *, axes, axis_index_groups=None):
    """y_e = Σ_d x_d on every e of the group, so dx_d = Σ_e dy_e: a psum again. An axis given by its position is summed
    by the device itself, and its cotangent repeated."""
    named, positions = _split_axes(axes)
    return spread(device_sum(dy, named, axis_index_groups), x_aval, positions)


def _split_axes(axes):
    """Axes by name, and those by position in the array."""
    return [a for a in axes if not isinstance(a, int)], [a for a in axes if isinstance(a, int)]


@vjp_rule("psum_invariant")
def psum_invariant_vjp(dy, *, axes):
    """y = Σ_d x_d, one value: dx_d = dy on each device."""
    return lax.pcast(dy, axes, to="varying")


@vjp_rule("pvary")
def pvary_vjp(dy, *, axes):
    """y_d = x, one value: dx = Σ_d dy_d."""
    return device_sum(dy, axes)


# ---------------------------------------------------------------- maximum and minimum


@vjp_rule("pmax")
def pmax_vjp(dy, x, x_aval, y_aval, *, axes, axis_index_groups=None):
    """y = max_d x_d: dy goes to the devices that attain it, in equal shares where several tie."""
    return _share_among_winners(lax.pmax, lax.reduce_max, dy, x, x_aval, y_aval, axes, axis_index_groups)


@vjp_rule("pmin")
def pmin_vjp(dy, x, x_aval, y_aval, *, axes, axis_index_groups=None):
    """y = min_d x_d: dy goes to the devices that attain it, in equal shares where several tie."""
    return _share_among_winners(lax.pmin, lax.reduce_min, dy, x, x_aval, y_aval, axes, axis_index_groups)


def _share_among_winners(extreme, reduce, dy, x, x_aval, y_aval, axes, groups):
    """dx_d = w_d·Σ_e dy_e / Σ_e w_e, where w_d says whether x_d attains the extreme.

    That is asked of one x in memory, and never of the output y, which may stem from an x of another rounding: see
    `reduce_max`. An axis by position is one along which the device itself takes the extreme."""
    named, positions = _split_axes(axes)
    one_value = _varies(x_aval, named) and not _varies(y_aval, named)
    if one_value and groups is not None:
        raise NotImplementedError(
            "pmax or pmin with axis_index_groups under shard_map(check_vma=True): its result is typed as one value "
            "though it differs from group to group, so its cotangents cannot be told apart. Use check_vma=False."
        )
    (x,) = in_memory(lambda x: [x], [aval_of(x)], (x,), dy)
    x = lax.stop_gradient(x)  # JAX has no JVP of pmax
    best = reduce(x, positions) if positions else x
    best = extreme(best, tuple(named), axis_index_groups=groups) if named else best
    attains = lax.convert_element_type(lax.eq(x, spread(best, x_aval, positions)), wide(dy).dtype)
    count = lax.reduce_sum(attains, positions) if positions else attains
    count = lax.psum(count, tuple(named), axis_index_groups=groups) if named else count
    total = wide(dy) if one_value or not named else lax.psum(wide(dy), tuple(named), axis_index_groups=groups)
    share = spread(lax.div(total, count), x_aval, positions)
    return lax.convert_element_type(lax.mul(attains, share), dy.dtype)


def _varies(aval, axes):
    """Whether a value is typed as differing from device to device along all these axes."""
    return bool(axes) and set(axes) <= varying_axes(aval)


# ---------------------------------------------------------------- gather and scatter


@vjp_rule("all_gather")
def all_gather_vjp(dy, *, all_gather_dimension, axis_name, axis_index_groups=None, tiled):
    """y_e = (x_0, x_1, ...) on every e: dx_d = Σ_e dy_e[d], a sum that leaves each device its part."""
    return _sum_scatter(dy, axis_name, all_gather_dimension, axis_index_groups, tiled)


def _sum_scatter(dy, axis_name, dimension, groups, tiled):
    total = lax.psum_scatter(wide(dy), axis_name, scatter_dimension=dimension, axis_index_groups=groups, tiled=tiled)
    return lax.convert_element_type(total, dy.dtype)


@vjp_rule("reduce_scatter")
def reduce_scatter_vjp(dy, *, axis_name, scatter_dimension, axis_index_groups=None, tiled):
    """y_d = Σ_e x_e[d]: dx_e[d] = dy_d for every e, so the cotangents are gathered."""
    return lax.all_gather(dy, axis_name, axis=scatter_dimension, axis_index_groups=axis_index_groups, tiled=tiled)


@vjp_rule("all_gather_invariant")
def all_gather_invariant_vjp(dy, x_aval, *, all_gather_dimension, axis_name, tiled):
    """y = (x_0, x_1, ...), one value: dx_d = dy[d]. Without checked types every device holds its own y: all_gather."""
    if not _varies(x_aval, axis_name):
        return _sum_scatter(dy, axis_name, all_gather_dimension, None, tiled)
    size = x_aval.shape[all_gather_dimension] if tiled else 1
    index = lax.axis_index(axis_name)
    start = lax.mul(index, scalar(size, index))
    part = lax.dynamic_slice_in_dim(dy, start, size, all_gather_dimension)
    return part if tiled else lax.squeeze(part, [all_gather_dimension])


# ---------------------------------------------------------------- permutations


@vjp_rule("ppermute")
def ppermute_vjp(dy, *, axis_name, perm):
    """y_t = x_s for each pair (s, t), else 0: dx_s = dy_t for each pair, else 0."""
    return lax.ppermute(dy, axis_name, [(target, source) for source, target in perm])


@vjp_rule("all_to_all")
def all_to_all_vjp(dy, *, split_axis, concat_axis, axis_name, axis_index_groups=None, tiled):
    """y_e[d] = x_d[e], a transposition of devices and parts: the same with the two axes exchanged."""
    return lax.all_to_all(dy, axis_name, concat_axis, split_axis, axis_index_groups=axis_index_groups, tiled=True)


@vjp_rule("pbroadcast")
def pbroadcast_vjp(dy, *, axis_name, source):
    """y_e = x_s on every e: dx_s = Σ_e dy_e, and 0 on the other devices."""
    return _to_source(dy, axis_name, np.int32(source))


@vjp_rule("pbroadcast_dynamic", "x, source -> y", wrt="x")
def pbroadcast_dynamic_vjp(dy, source, *, axis_name):
    """y_e = x_s on every e: dx_s = Σ_e dy_e, and 0 on the other devices."""
    return _to_source(dy, axis_name, source)


def _to_source(dy, axis_name, source):
    total = device_sum(dy, _names(axis_name))
    return lax.select(lax.eq(lax.axis_index(axis_name), source), total, lax.full_like(total, 0))


# ---------------------------------------------------------------- ragged exchange


@vjp_rule("ragged_all_to_all", "x, into, starts, sizes, places, received -> y", wrt="x")
def ragged_all_to_all_vjp_x(
    dy, x_aval, starts, sizes, places, received, *, axis_name, axis_index_groups=None
):  # fmt: skip
    """Device d writes its rows starts[e] : +sizes[e] at places[e] of e's y: they travel back the same way.

    So each device needs what the others chose for it, an all_to_all. The parts sent must not overlap."""
    exchanged = [_exchange(v, axis_name, axis_index_groups) for v in (places, starts)]
    return lax.ragged_all_to_all(
        dy, zeros_like_aval(x_aval), exchanged[0], received, exchanged[1], sizes,
        axis_name=axis_name, axis_index_groups=axis_index_groups,
    )  # fmt: skip


@vjp_rule("ragged_all_to_all", "x, into, starts, sizes, places, received -> y", wrt="into")
def ragged_all_to_all_vjp_into(dy, places, received, *, axis_name, axis_index_groups=None):
    """y is `into` but for the rows received, so its cotangent is dy but for these."""
    first = _exchange(places, axis_name, axis_index_groups)
    shape = (dy.shape[0], first.shape[0])  # (row, part)
    rows = lax.broadcasted_iota(first.dtype, shape, 0)
    first, end = (lax.broadcast_in_dim(v, shape, (1,)) for v in (first, lax.add(first, received)))
    written = lax.reduce_or(lax.bitwise_and(lax.ge(rows, first), lax.lt(rows, end)), axes=(1,))
    return lax.select(lax.broadcast_in_dim(written, dy.shape, (0,)), lax.full_like(dy, 0), dy)


def _exchange(v, axis_name, groups):
    """What the other devices hold for this one: the k-th part goes to the k-th device."""
    return lax.all_to_all(v, axis_name, 0, 0, axis_index_groups=groups, tiled=True)


# ---------------------------------------------------------------- reduced and unreduced values


@vjp_rule("unreduced_psum")
def unreduced_psum_vjp(dy, *, axes):
    """y = Σ_d x_d, the value that the terms x_d stand for: dx = dy, the same on each device."""
    return lax.pcast(dy, axes, to="reduced")


@vjp_rule("preduced")
def preduced_vjp(dy, *, axes):
    """y = x, whose cotangent is left in terms: dx is their sum."""
    return lax.psum(dy, axes)


@vjp_rule("vary_unreduced_cast")
@vjp_rule("vary_unreduced_cast_p")
def vary_unreduced_cast_vjp(dy, *, axes):
    """y's terms are the x_d: each has the cotangent dy."""
    return lax.pcast(dy, axes, to="varying")


@vjp_rule("reduced_vary_cast")
@vjp_rule("reduced_vary_cast_p")
def reduced_vary_cast_vjp(dy, *, axes):
    """y_d = x on every d: the dy_d are the terms of dx."""
    return lax.pcast(dy, axes, to="unreduced")


@vjp_rule("all_gather_reduced")
def all_gather_reduced_vjp(dy, *, all_gather_dimension, axis_name, tiled):
    """y = (x_0, x_1, ...), whose cotangent is left in terms: their sum leaves each device its part."""
    return lax.psum_scatter(dy, axis_name, scatter_dimension=all_gather_dimension, tiled=tiled)


@vjp_rule("unreduced_reduce_scatter")
def unreduced_reduce_scatter_vjp(dy, *, axis_name, scatter_dimension, tiled):
    """y_d = (Σ_e x_e)[d]: the dy_d side by side, the same on each device."""
    return lax.all_gather(dy, axis_name, axis=scatter_dimension, tiled=tiled, to="reduced")
