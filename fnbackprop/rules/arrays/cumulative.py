"""Cumulative sums, products and extremes along an axis. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are written for the forward direction; `Line` holds the axis and the direction. What is computed in
float32 is rounded once, by the engine.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import aval_of, explicit_sharding
from ..expressions import Expr, exp, is_complex, on_expressions, vjp_rule, where, wide
from .generic_reductions import vjp_of_equivalent
from .layouts import shift


@vjp_rule("cumsum")
def cumsum_vjp(dy, *, axis, reverse):
    """x at i is part of y from i on: dxᵢ = Σ dyₖ over k ≥ i, the cumulative sum from the other end."""
    return Line(axis, reverse).backward.cumsum(wide(dy))


@structured_rule("cumprod")
def cumprod_vjp(engine, equation, active, wanted):
    """A tree of products of two, z = uv with du = dz·v and dv = u·dz: nothing is divided, so zeros are safe."""
    return _vjp_of_tree(engine, equation, active, wanted, lax.mul)


@structured_rule("cumlogsumexp")
def cumlogsumexp_vjp(engine, equation, active, wanted):
    """dxᵢ = Σ over k ≥ i of dyₖ exp(xᵢ - yₖ) = exp(xᵢ - yᵢ)·sᵢ with sᵢ = dyᵢ + exp(yᵢ - yᵢ₊₁) sᵢ₊₁.

    The forward is a tree of logaddexp: XLA's own takes a step for each pair of elements on a CPU."""
    line = Line(equation.params["axis"], equation.params["reverse"])

    def forward(x):
        y = line.tree(jnp.logaddexp, wide(Expr(x))).array
        return [lax.convert_element_type(y, x.dtype)], (x, y)

    def backward(residuals, cotangents):
        return [on_expressions(partial(_cumlogsumexp_pullback, line))(*residuals, *cotangents)]

    return Structured(forward, backward, active)


def _cumlogsumexp_pullback(line, x, y, dy):
    """For real x no exponent is positive: y does not decrease. -inf weighs nothing but in the first y, which is x."""
    x = wide(x)
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

    def tree(self, combine: Callable, x: Expr) -> Expr:
        """The cumulative results of an associative function of two arrays, in logarithmic depth."""
        return Expr(lax.associative_scan(combine, x.array, axis=self.axis, reverse=self.reverse))

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


def _vjp_of_tree(engine, equation, active, wanted, combine):
    line = Line(equation.params["axis"], equation.params["reverse"])

    def tree(x):
        return [lax.convert_element_type(line.tree(combine, wide(Expr(x))).array, x.dtype)]

    return vjp_of_equivalent(engine, equation, active, wanted, tree, replaced=True)
