"""Reductions over axes. `dx` is the cotangent of `x`: same shape, same dtype."""

import math

from jax import lax

from ...backprop.precision import wide
from ...backprop.registry import vjp_rule
from ..expressions import scalar
from .layouts import inverse, spread


@vjp_rule("reduce_sum")
def reduce_sum_vjp(dy, x_aval, *, axes):
    """y = Σ x: every summand gets dy."""
    return spread(dy, x_aval, axes)


@vjp_rule("reduce_max")
def reduce_max_vjp(dy, x, x_aval, *, axes):
    """y = max x: dy goes to the greatest elements, in equal shares where several tie."""
    return _share_among_extremes(dy, x, x_aval, axes, lax.reduce_max)


@vjp_rule("reduce_min")
def reduce_min_vjp(dy, x, x_aval, *, axes):
    """y = min x: dy goes to the least elements, in equal shares where several tie."""
    return _share_among_extremes(dy, x, x_aval, axes, lax.reduce_min)


def _share_among_extremes(dy, x, x_aval, axes, extreme):
    """Who attains the extreme is asked of one x in memory, never of the output y.

    A compiler may compute x again inside each kernel that reads it, with another rounding (a fused multiply-add, a
    bfloat16 kept in float32), and then x == y holds nowhere. Behind the barrier x is one buffer: its extreme, the
    comparison and the count of winners see the same numbers."""
    x = lax.optimization_barrier(x)
    attains = lax.convert_element_type(lax.eq(x, spread(extreme(x, axes), x_aval, axes)), dy.dtype)
    share = lax.div(wide(dy), lax.reduce_sum(wide(attains), axes=tuple(axes)))
    return lax.mul(attains, spread(lax.convert_element_type(share, dy.dtype), x_aval, axes))


@vjp_rule("reduce_prod")
def reduce_prod_vjp(dy, x, x_aval, *, axes):
    """∂y/∂xᵢ = Π xⱼ over j ≠ i: the product of those before i and of those after, so zeros are safe."""
    kept = [a for a in range(x.ndim) if a not in axes]
    order = (*kept, *axes)
    rows = lax.transpose(x, order)  # (*kept, *axes)
    flat = lax.reshape(rows, (*rows.shape[: len(kept)], math.prod(rows.shape[len(kept) :])))  # (*kept, reduced)
    others = lax.mul(exclusive_product(flat, False), exclusive_product(flat, True))
    others = lax.reshape(others, rows.shape)
    return lax.mul(spread(dy, x_aval, axes), lax.transpose(others, inverse(order)))


def exclusive_product(x, reverse):
    """Along the last axis, the product of all elements before each one (after it, if `reverse`)."""
    edge = (-1, 1, 0) if reverse else (1, -1, 0)
    shifted = lax.pad(x, scalar(1, x), [(0, 0, 0)] * (x.ndim - 1) + [edge])
    return lax.cumprod(shifted, axis=x.ndim - 1, reverse=reverse)
