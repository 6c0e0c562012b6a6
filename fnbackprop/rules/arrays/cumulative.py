"""Cumulative sums, products and extremes along an axis. `dx` is the cotangent of `x`: same shape, same dtype.

With `reverse`, "before" and "after" change places; the formulas are written for the forward direction.
"""

import numpy as np
from jax import lax

from ...backprop.precision import wide
from ...backprop.registry import structured_rule, vjp_rule
from ..expressions import scalar
from .generic_reductions import walk_instead


@vjp_rule("cumsum")
def cumsum_vjp(dy, *, axis, reverse):
    """x at i is part of y from i on: dxᵢ = Σ dyₖ over k ≥ i, the cumulative sum from the other end."""
    return lax.convert_element_type(lax.cumsum(wide(dy), axis=axis, reverse=not reverse), dy.dtype)


@vjp_rule("cumprod")
def cumprod_vjp(dy, x, *, axis, reverse):
    """dxᵢ = Σ over k ≥ i of dyₖ Π xⱼ (j ≤ k, j ≠ i) = (Π xⱼ, j < i)·sᵢ with sᵢ = dyᵢ + xᵢ₊₁ sᵢ₊₁.

    Nothing is divided by x, so zeros are safe."""
    x = wide(x)
    before = lax.cumprod(_shift(x, 1, axis, not reverse), axis=axis, reverse=reverse)
    total = _linear_recurrence(_shift(x, 1, axis, reverse), wide(dy), axis, not reverse)
    return lax.convert_element_type(lax.mul(before, total), dy.dtype)


@vjp_rule("cumlogsumexp")
def cumlogsumexp_vjp(dy, x, y, *, axis, reverse):
    """dxᵢ = Σ over k ≥ i of dyₖ exp(xᵢ - yₖ) = exp(xᵢ - yᵢ)·sᵢ with sᵢ = dyᵢ + exp(yᵢ - yᵢ₊₁) sᵢ₊₁.

    For real x no exponent is positive, as y does not decrease; -inf weighs nothing, but in the first y, which is x."""
    x, y = wide(x), wide(y)
    after = _shift(y, 0, axis, reverse)
    decay, weight = lax.sub(y, after), lax.sub(x, y)
    if not np.issubdtype(x.dtype, np.complexfloating):
        infinite = lax.full_like(x, np.inf)
        decay = lax.select(lax.eq(after, infinite) & lax.eq(y, infinite), lax.full_like(decay, 0), decay)
        decay = lax.select(lax.eq(y, lax.neg(infinite)), y, decay)
        place = lax.broadcasted_iota(np.int32, x.shape, axis)
        first = lax.eq(place, lax.full_like(place, x.shape[axis] - 1 if reverse else 0))
        weight = lax.select(lax.eq(x, lax.neg(infinite)), x, weight)
        weight = lax.select(first, lax.full_like(weight, 0), weight)
    total = _linear_recurrence(lax.exp(decay), wide(dy), axis, not reverse)
    return lax.convert_element_type(lax.mul(lax.exp(weight), total), dy.dtype)


def _shift(x, fill, axis, reverse):
    """The next element in the place of each along `axis` (the previous one, if `reverse`); `fill` at the end."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (1, -1, 0) if reverse else (-1, 1, 0)
    return lax.pad(x, scalar(fill, x), config)


def _linear_recurrence(a, b, axis, reverse):
    """sᵢ = bᵢ + aᵢ sᵢ₋₁ along `axis` (sᵢ₊₁, if `reverse`), s = 0 before the start, in logarithmic depth.

    The maps s -> b + a·s compose associatively (Blelloch 1990, Prefix sums and their applications, 1.4)."""

    def compose(first, then):
        return lax.mul(first[0], then[0]), lax.add(then[1], lax.mul(then[0], first[1]))

    return lax.associative_scan(compose, (a, b), axis=axis, reverse=reverse)[1]


@structured_rule("cummax")
def cummax_vjp(engine, equation, active, wanted):
    """A tree of pairwise maxima, walked backward: a tie shares the gradient at each node, as `max` does."""
    return _walk_tree(engine, equation, active, wanted, lax.max)


@structured_rule("cummin")
def cummin_vjp(engine, equation, active, wanted):
    """A tree of pairwise minima, walked backward: a tie shares the gradient at each node, as `min` does."""
    return _walk_tree(engine, equation, active, wanted, lax.min)


def _walk_tree(engine, equation, active, wanted, extreme):
    def tree(x):
        return [lax.associative_scan(extreme, x, axis=equation.params["axis"], reverse=equation.params["reverse"])]

    return walk_instead(engine, equation, active, wanted, tree)
