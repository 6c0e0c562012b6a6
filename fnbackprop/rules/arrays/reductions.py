"""Reductions over axes. `dx` is the cotangent of `x`: same shape, same dtype."""

import math

from jax import lax

from ...backprop import registry
from ..expressions import Expr, vjp_rule, wide
from .layouts import inverse, shift, spread


@registry.vjp_rule("reduce_sum")
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


def _share_among_extremes(dy, x, x_aval, axes, reduce_extreme):
    """dx = dy / (number of elements that attain the extreme), at each of these.

    The extreme is compared with one x in memory, never with the output y: a compiler may compute x again inside each
    kernel that reads it, with another rounding (a fused multiply-add, a bfloat16 kept in float32), and then x == y
    holds nowhere. Behind the barrier x is one buffer: extreme, comparison and count see the same numbers."""

    def back(y):
        return Expr(spread(y.array, x_aval, axes))

    x = Expr(lax.optimization_barrier(x.array))
    extreme = Expr(reduce_extreme(x.array, axes))
    attains = (x == back(extreme)).astype(dy.dtype)
    share = wide(dy) / Expr(lax.reduce_sum(wide(attains).array, axes))
    return attains * back(share.astype(dy.dtype))


@registry.vjp_rule("reduce_prod")
def reduce_prod_vjp(dy, x, x_aval, *, axes):
    """∂y/∂xᵢ = Π xⱼ over j ≠ i: the product of those before i and of those after, so zeros are safe."""
    kept = [a for a in range(x.ndim) if a not in axes]
    order = (*kept, *axes)
    rows = lax.transpose(x, order)  # (*kept, *axes)
    flat = lax.reshape(rows, (*rows.shape[: len(kept)], math.prod(rows.shape[len(kept) :])))  # (*kept, reduced)
    others = lax.mul(_exclusive_product(flat, False), _exclusive_product(flat, True))
    others = lax.reshape(others, rows.shape)
    return lax.mul(spread(dy, x_aval, axes), lax.transpose(others, inverse(order)))


def _exclusive_product(x, reverse):
    """Along the last axis, the product of all elements before each one (after it, if `reverse`)."""
    axis = x.ndim - 1
    return lax.cumprod(shift(x, -1 if reverse else 1, axis, fill=1), axis=axis, reverse=reverse)
