"""Primitives that move elements: each is a 0-1 matrix, its VJP the transpose. `dx` is the cotangent of `x`."""

import numpy as np
from jax import lax

from ...backprop.registry import vjp_rule
from ...jaxprs.avals import aval_of, cotangent_sharding, explicit_sharding, lay_out, with_partitions
from ..expressions import scalar
from .layouts import inverse, reshape_like, sum_over


@vjp_rule("reshape")
def reshape_vjp(dy, x_aval, *, dimensions=None):
    """y = x in another shape, read in the axis order `dimensions`; dx = dy in x's shape and order."""
    if dimensions is None:
        return reshape_like(dy, x_aval)
    permuted = lax.reshape(dy, [x_aval.shape[d] for d in dimensions])
    return lax.transpose(permuted, inverse(dimensions))


@vjp_rule("broadcast_in_dim")
def broadcast_in_dim_vjp(dy, x_aval, *, shape, broadcast_dimensions):
    """x is repeated along the new axes and along its axes of size 1: dx = Σ dy over these."""
    repeated = [d for d, n in zip(broadcast_dimensions, x_aval.shape, strict=True) if n != shape[d]]
    kept = set(broadcast_dimensions) - set(repeated)
    sharding = cotangent_sharding(x_aval)
    if sharding and sharding.spec.unreduced:  # the sum over devices is left to whoever reads dx
        places = zip(broadcast_dimensions, sharding.spec.partitions, strict=True)
        sharding = with_partitions(sharding, [axis for d, axis in places if d in kept])
    dx = sum_over(dy, [d for d in range(len(shape)) if d not in kept], sharding)
    return reshape_like(dx, x_aval) if dx.shape != x_aval.shape else dx


@vjp_rule("transpose")
def transpose_vjp(dy, *, permutation):
    """The inverse of a permutation matrix is its transpose."""
    return lax.transpose(dy, inverse(permutation))


@vjp_rule("squeeze")
def squeeze_vjp(dy, *, dimensions):
    """Put the axes of size 1 back."""
    return lax.expand_dims(dy, dimensions)


@vjp_rule("rev")
def rev_vjp(dy, *, dimensions):
    """A reversal is its own inverse and transpose."""
    return lax.rev(dy, dimensions)


@vjp_rule("pad", "x, v -> y", wrt="x")
def pad_vjp_x(dy, *, padding_config):
    """dx is dy at the places to which x went: undo the edges (a crop becomes a pad of zeros), then stride."""
    edges = [(-low, -high, 0) for low, high, _ in padding_config]
    dy = lax.pad(dy, scalar(0, dy), edges)
    strides = [interior + 1 for _, _, interior in padding_config]
    return dy if set(strides) <= {1} else lax.slice(dy, [0] * dy.ndim, dy.shape, strides)


@vjp_rule("pad", "x, v -> y", wrt="v")
def pad_vjp_v(dy, x_aval, *, padding_config):
    """dv = Σ dy over the padding, masked rather than as a difference of two sums, which would cancel."""
    padding = lax.pad(lax.full(x_aval.shape, False), np.bool_(True), padding_config)
    padding = lay_out(padding, explicit_sharding(aval_of(dy)))
    return sum_over(lax.select(padding, dy, lax.full_like(dy, 0)), range(dy.ndim))


@vjp_rule("concatenate", "*xs -> y")
def concatenate_vjp(dy, xs_aval, active, *, dimension):
    """Each operand's cotangent is its own slice of dy."""
    dxs, start = [], 0
    for aval, on in zip(xs_aval, active, strict=True):
        limit = start + aval.shape[dimension]
        dxs.append(lax.slice_in_dim(dy, start, limit, axis=dimension) if on else None)
        start = limit
    return dxs


@vjp_rule("split", "x -> *ys")
def split_vjp(dys, *, axis):
    """Put the pieces together."""
    return lax.concatenate(dys, axis)


@vjp_rule("slice")
def slice_vjp(dy, x_aval, *, start_indices, strides):
    """dx is dy at the places that were read, zero elsewhere."""
    config = []
    strides = strides or (1,) * dy.ndim
    for start, stride, taken, size in zip(start_indices, strides, dy.shape, x_aval.shape, strict=True):
        spanned = (taken - 1) * stride + 1 if taken else 0
        config.append((start, size - start - spanned, stride - 1))
    return lax.pad(dy, scalar(0, dy), config)


@vjp_rule("tile")
def tile_vjp(dy, x_aval, *, reps):
    """x is repeated `reps` times along each axis: dx = Σ dy over the repetitions."""
    split = [n for pair in zip(reps, x_aval.shape, strict=True) for n in pair]
    sharding = cotangent_sharding(x_aval)
    sharding = sharding and with_partitions(sharding, [p for own in sharding.spec.partitions for p in (None, own)])
    parts = lax.reshape(dy, split, out_sharding=sharding)  # (rep 0, axis 0, rep 1, axis 1, ...)
    return sum_over(parts, range(0, len(split), 2))


@vjp_rule("stack", "*xs -> y")
def stack_vjp(dy, active, *, axis):
    """Each operand's cotangent is its own slice of dy."""
    return [dx if on else None for dx, on in zip(lax.unstack(dy, axis), active, strict=True)]


@vjp_rule("unstack", "x -> *ys")
def unstack_vjp(dys, *, axis):
    """Put the slices together."""
    return lax.stack(dys, axis)
