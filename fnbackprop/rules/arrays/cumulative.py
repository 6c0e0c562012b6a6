"""Cumulative sums, products and extremes along an axis. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are written for the forward direction; `Line` holds the axis and the direction. What is computed in
float32 is rounded once, by the driver.
"""

from typing import NamedTuple

import numpy as np
from jax import lax

from ...backprop.registry import structured_rule
from ...jaxprs.avals import aval_of, explicit_sharding
from ..expressions import Expr, exp, is_complex, on_expressions, vjp_rule, where, wide
from .generic_reductions import vjp_of_equivalent
from .layouts import shift


@vjp_rule("cumsum")
def cumsum_vjp(dy, *, axis, reverse):
    """x at i is part of y from i on: dxᵢ = Σ dyₖ over k ≥ i, the cumulative sum from the other end."""
    return Line(axis, reverse).backward.cumsum(wide(dy))


@vjp_rule("cumprod")
def cumprod_vjp(dy, x, *, axis, reverse):
    """dxᵢ = Σ over k ≥ i of dyₖ Π xⱼ (j ≤ k, j ≠ i) = (Π xⱼ, j < i)·sᵢ with sᵢ = dyᵢ + xᵢ₊₁ sᵢ₊₁.

    Nothing is divided by x, so zeros are safe."""
    line, x = Line(axis, reverse), wide(x)
    before = line.cumprod(line.previous(x, 1))
    s = line.backward.recurrence(line.next(x, 1), wide(dy))
    return before * s


@vjp_rule("cumlogsumexp")
def cumlogsumexp_vjp(dy, x, y, *, axis, reverse):
    """dxᵢ = Σ over k ≥ i of dyₖ exp(xᵢ - yₖ) = exp(xᵢ - yᵢ)·sᵢ with sᵢ = dyᵢ + exp(yᵢ - yᵢ₊₁) sᵢ₊₁.

    For real x no exponent is positive, as y does not decrease; -inf weighs nothing, but in the first y, which is x."""
    line, x, y = Line(axis, reverse), wide(x), wide(y)
    after = line.next(y, 0)
    decay, weight = y - after, x - y
    if not is_complex(x):
        decay = where((after == np.inf) & (y == np.inf), 0, decay)
        decay = where(y == -np.inf, y, decay)
        weight = where(x == -np.inf, x, weight)
        weight = where(line.first(x), 0, weight)
    s = line.backward.recurrence(exp(decay), wide(dy))
    return exp(weight) * s


class Line(NamedTuple):
    """An axis, and the direction in which it is run through: from the end if `reverse`."""

    axis: int
    reverse: bool

    @property
    def backward(self) -> "Line":
        return Line(self.axis, not self.reverse)

    def cumsum(self, x: Expr) -> Expr:
        return Expr(lax.cumsum(x.array, self.axis, self.reverse))

    def cumprod(self, x: Expr) -> Expr:
        return Expr(lax.cumprod(x.array, self.axis, self.reverse))

    def previous(self, x: Expr, fill: float) -> Expr:
        """xᵢ₋₁ at i; `fill` at the start."""
        return Expr(shift(x.array, -1 if self.reverse else 1, self.axis, fill))

    def next(self, x: Expr, fill: float) -> Expr:
        """xᵢ₊₁ at i; `fill` at the end."""
        return self.backward.previous(x, fill)

    def first(self, x: Expr) -> Expr:
        """A mask of the elements at the start."""
        places = Expr(
            lax.broadcasted_iota(np.int32, x.shape, self.axis, out_sharding=explicit_sharding(aval_of(x.array)))
        )
        return places == (x.shape[self.axis] - 1 if self.reverse else 0)

    def recurrence(self, a: Expr, b: Expr) -> Expr:
        """sᵢ = bᵢ + aᵢ sᵢ₋₁, from s = 0 before the start, in logarithmic depth.

        The maps s -> b + a·s compose associatively (Blelloch 1990, Prefix sums and their applications, 1.4)."""

        @on_expressions
        def compose(first, then):
            (a1, b1), (a2, b2) = first, then
            return a1 * a2, b2 + a2 * b1

        return Expr(lax.associative_scan(compose, (a.array, b.array), axis=self.axis, reverse=self.reverse)[1])


@structured_rule("cummax")
def cummax_vjp(engine, equation, active, wanted):
    """A tree of pairwise maxima: a tie shares the gradient at each node, as `max` does."""
    return _vjp_of_tree(engine, equation, active, wanted, lax.max)


@structured_rule("cummin")
def cummin_vjp(engine, equation, active, wanted):
    """A tree of pairwise minima: a tie shares the gradient at each node, as `min` does."""
    return _vjp_of_tree(engine, equation, active, wanted, lax.min)


def _vjp_of_tree(engine, equation, active, wanted, extreme):
    def tree(x):
        return [lax.associative_scan(extreme, x, axis=equation.params["axis"], reverse=equation.params["reverse"])]

    return vjp_of_equivalent(engine, equation, active, wanted, tree)
