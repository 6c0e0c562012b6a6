"""Sums and extremes over windows (pooling). `dx` is the cotangent of `x`: same shape, same dtype."""

import math

import numpy as np
from jax import lax

from ...backprop.precision import wide
from ...backprop.registry import vjp_rule
from ..expressions import Expr, on_expressions, scalar, where
from .shapes import pad_vjp_x


@vjp_rule("reduce_window_sum")
def reduce_window_sum_vjp(dy, x_aval, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    """yₒ = Σ over k of x̃ at o·stride + k·dilation, where x̃ is x spread by the base dilation and padded.

    dx̃ at p = Σ dyₒ over the (o, k) that reach p: the same sum over dy, strides and base dilation exchanged."""
    if 0 in dy.shape or 0 in x_aval.shape:
        return lax.full(x_aval.shape, 0, dy.dtype)
    edges = []
    layout = zip(
        x_aval.shape, dy.shape, window_dimensions, window_strides, padding, base_dilation, window_dilation, strict=True
    )
    for n, m, size, stride, (low, _), hole, dilation in layout:
        reach = (size - 1) * dilation  # from a window's first element to its last
        edges.append((reach - low, (n - 1) * hole - (m - 1) * stride + low))  # n windows, strides `hole`
    dy = wide(dy)
    layout = (window_dimensions, base_dilation, edges, window_strides, window_dilation)
    return lax.reduce_window(dy, scalar(0, dy), lax.add, *layout)


@vjp_rule("reduce_window_max")
def reduce_window_max_vjp(dy, x, **params):
    """dy of each window goes to its greatest element, the first of several."""
    return _to_extremes(dy, x, lax.ge_p, -np.inf, **params)


@vjp_rule("reduce_window_min")
def reduce_window_min_vjp(dy, x, **params):
    """dy of each window goes to its least element, the first of several."""
    return _to_extremes(dy, x, lax.le_p, np.inf, **params)


def _to_extremes(dy, x, prefer, worst, *, padding, base_dilation, window_dilation, window_dimensions, window_strides):
    """The winners are found by comparing the elements of x with each other, never with the output."""
    if x.ndim == 0:  # XLA aborts on `select_and_scatter` of rank 0
        return dy
    if set(window_dilation) - {1}:
        layout = (window_dimensions, window_strides, padding, base_dilation, window_dilation)
        return _scatter_to_winners(dy, x, prefer, worst, layout)
    config = [(*edges, hole - 1) for edges, hole in zip(padding, base_dilation, strict=True)]
    padded = lax.pad(x, scalar(worst, x), config)
    dx = lax.select_and_scatter_add_p.bind(
        dy,
        padded,
        select_prim=prefer,
        window_dimensions=window_dimensions,
        window_strides=window_strides,
        padding=((0, 0),) * x.ndim,
    )
    return pad_vjp_x(dx, padding_config=config)


def _scatter_to_winners(dy, x, prefer, worst, layout):
    """Carry each element's position along, reduce each window to its winner's, and add dy there.

    `select_and_scatter_add` has no window dilation. Padding has the last position, which scatter drops."""
    position = lax.reshape(lax.iota(np.int32, math.prod(x.shape)), x.shape)
    nowhere = np.int32(math.prod(x.shape))

    @on_expressions
    def winner(left, right):
        (a, i), (b, j) = left, right
        first = where(a == b, i < j, Expr(prefer.bind(a.array, b.array)))
        first = first | (a != a)  # NaN is the extreme
        return where(first, a, b), where(first, i, j)

    fixed = lax.stop_gradient(x)  # the place of the winner is constant, to `jax.jvp` over this rule too
    _, winners = lax.reduce_window((fixed, position), (scalar(worst, x), nowhere), winner, *layout)
    numbers = lax.ScatterDimensionNumbers((), (0,), (0,))
    total = lax.scatter_add(
        lax.full((math.prod(x.shape),), 0, dy.dtype),
        lax.reshape(winners, (math.prod(dy.shape), 1)),
        lax.reshape(dy, (math.prod(dy.shape),)),
        numbers,
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )
    return lax.reshape(total, x.shape)


@vjp_rule("select_and_scatter_add", "source, operand -> y", wrt="source")
def select_and_scatter_add_vjp_source(dy, operand, **params):
    """Each window's source went to the place of its winner in `operand`, and takes dy from there."""
    ones = (1,) * dy.ndim
    return lax.select_and_gather_add_p.bind(dy, operand, base_dilation=ones, window_dilation=ones, **params)


@vjp_rule("select_and_gather_add", "tangents, operand -> y", wrt="tangents")
def select_and_gather_add_vjp_tangents(dy, operand, *, select_prim, **params):
    """Each window's y came from the place of its winner in `operand`, and its cotangent goes back there."""
    worst = -np.inf if select_prim is lax.ge_p else np.inf
    return _to_extremes(dy, operand, select_prim, worst, **params)


@vjp_rule("select_and_scatter_add", "source, operand -> y", wrt="operand")
@vjp_rule("select_and_gather_add", "tangents, operand -> y", wrt="operand")
def select_and_gather_add_vjp_operand():
    """The winner's place is constant but at ties."""
    return None
