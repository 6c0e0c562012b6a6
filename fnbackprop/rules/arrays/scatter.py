"""Writing at indices: the scatters. `dx` is the cotangent of `x`: same shape and dtype.

A scatter combines windows of updates u into x at the starts i. With S the 0-1 matrix that reads where it writes,
scatter-add is y = x + Sᵀ u.
"""

import math

import jax
from jax import lax

from ...backprop.jvp_by_rules import bind_with_jvp
from ...backprop.memory.recompute_barrier import in_memory
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import aval_of, operand_avals
from ...jaxprs.evaluate import bind
from ...jaxprs.types import close_jaxpr
from ..expressions import Expr, on_expressions, scalar, vjp_rule, where, wide
from .indexing import write_along
from .layouts import reshape_like, shift, zeros_of
from .selection import Selection


@vjp_rule("scatter-add", "x, i, u -> y", wrt="x")
@vjp_rule("scatter-sub", "x, i, u -> y", wrt="x")
def scatter_add_vjp_x(dy):
    """y = x ± Sᵀ u: dx = dy."""
    return dy


@vjp_rule("scatter-add", "x, i, u -> y", wrt="u")
def scatter_add_vjp_u(dy, i, u_aval, **params):
    """y = x + Sᵀ u: du = S dy, a gather; an update that was left out reads zero."""
    return Selection.of_scatter(dy, i, u_aval, params).read(dy)


@vjp_rule("scatter-sub", "x, i, u -> y", wrt="u")
def scatter_sub_vjp_u(dy, i, u_aval, **params):
    """y = x - Sᵀ u: du = -S dy."""
    return -Selection.of_scatter(dy, i, u_aval, params).read(dy)


@structured_rule("scatter")
def scatter_vjp(engine, equation, active, wanted):
    """y = x with u written over it, or, given a function f in place of u, with f applied there (`x.at[i].apply`)."""
    f = equation.params["update_jaxpr"]
    pullback = _set_pullback if f is None else _apply_pullback(engine, close_jaxpr(f))
    _, _, u_aval = operand_avals(equation)

    def forward(x, i, u):
        if f is None:
            return bind(equation, (x, i, u)), (i, None)
        return bind_with_jvp(engine, equation.primitive, equation.params, (x, i, u)), (i, x)

    @on_expressions
    def backward(residuals, cotangents):
        (i, x), (dy,) = residuals, cotangents
        return pullback(dy, x, Selection.of_scatter(dy, i, u_aval, equation.params), u_aval, active)

    return Structured(forward, backward, (active[0], False, active[2] and f is None))


def _set_pullback(dy, x, S, u_aval, active):
    """dx = dy where nothing was written, du = S dy for the one of several updates of an element that remains.

    To find that one, numbers from 1 are written in the same way into zeros, and compared with what is read back: 0 is
    left where nothing was written. JAX does not specify the order of the writes; we assume that it depends on the
    indices alone. On a CPU the last write remains.
    """
    if not active[2] or S.distinct:
        dx = S.write(lax.scatter, dy, Expr(zeros_of(u_aval, dy.dtype))) if active[0] else None
        return dx, None, S.read(dy) if active[2] else None
    numbers = _numbers(u_aval)
    written = S.write(lax.scatter, Expr(zeros_of(aval_of(dy.array), numbers.dtype)), numbers)
    dx = where(written == 0, dy, 0) if active[0] else None
    return dx, None, where(S.read(written) == numbers, S.read(dy), 0)


def _numbers(aval):
    """1, 2, 3 ... in an array of this aval's shape."""
    count = Expr(lax.iota("uint32", math.prod(aval.shape))) + 1
    return Expr(reshape_like(count.array, aval))


def _apply_pullback(engine, closed):
    """y = f(f(... x)), as often as an element's index occurs: dx = dy f'(x) f'(f(x)) ...

    Only the selected elements are read, so f' is evaluated nowhere else.
    """
    plan = engine.plan(closed, (True, False), (True,))

    def value_and_slope(v):
        (y,), residuals = engine.forward(plan, (v, v))
        (slope, _) = engine.backward(plan, residuals, [lax.full_like(y, 1)])
        return y, lax.full_like(v, 0) if slope is None else slope

    def pullback(dy, x, S, u_aval, active):
        v = lax.reshape(S.read(x).array, (math.prod(u_aval.shape),))
        if S.distinct:
            slope = jax.vmap(value_and_slope)(v)[1]
        else:
            ones = Expr(lax.full(u_aval.shape, 1, "int32"))
            times = S.read(S.transposed(ones, aval_of(dy.array)))
            slope = _slope_repeated(jax.vmap(value_and_slope), v, lax.reshape(times.array, v.shape))
        slope = Expr(lax.reshape(slope, u_aval.shape))
        return S.write(lax.scatter, dy, S.read(dy) * slope), None, None

    return pullback


def _slope_repeated(value_and_slope, v, times):
    """The derivative of f applied `times` times, element by element, at v."""

    def step(state):
        k, v, slope = state
        y, factor = value_and_slope(v)
        more = lax.lt(lax.full_like(times, k), times)
        return lax.add(k, scalar(1, k)), lax.select(more, y, v), lax.select(more, lax.mul(slope, factor), slope)

    most = lax.reduce_max(times, axes=(0,))
    return lax.while_loop(lambda state: state[0] < most, step, (scalar(0, times), v, lax.full_like(v, 1)))[2]


@vjp_rule("scatter-mul", "x, i, u -> y", wrt="x")
def scatter_mul_vjp_x(dy, i, u, **params):
    """y = x Π u over the updates of each element: dx = dy Π u, the same scatter into dy."""
    S = Selection.of_scatter(dy, i, u, params)
    return S.write(lax.scatter_mul, dy, u)


@vjp_rule("scatter-mul", "x, i, u -> y", wrt="u")
def scatter_mul_vjp_u(dy, x, i, u, **params):
    """y = x Π u over the updates of each element: duⱼ = (S dy)ⱼ (S x)ⱼ Π uₖ over the element's other updates k ≠ j."""
    S = Selection.of_scatter(dy, i, u, params)
    du = S.read(dy) * S.read(x)
    if S.distinct:
        return du
    return du * _product_of_others(wide(u), S, aval_of(dy.array)).astype(du.dtype)


def _product_of_others(u, S, x_aval):
    """For each update the product of its element's other updates, without a division, so zeros are safe.

    Sorted by the element that they are written to, the updates of one element are a run; the others of an update
    are those before it in its run and those after.
    """
    element = S.read(_numbers(x_aval))  # 0 for an update that is left out
    u = where(element == 0, 1, u)
    size = math.prod(u.shape)
    element, flat = (lax.reshape(a.array, (size,)) for a in (element, u))
    run, flat, order = lax.sort((element, flat, lax.iota("int32", size)), num_keys=1)
    others = Expr(_product_before(run, flat, reverse=False)) * Expr(_product_before(run, flat, reverse=True))
    return Expr(lax.reshape(write_along(others.array, order, 0, size), u.shape))


def _product_before(run, u, reverse):
    """The product of the u before each one (after it, if `reverse`) within its run of equal numbers."""
    by = -1 if reverse else 1
    first = lax.ne(run, shift(run, by, 0))
    before = lax.select(first, lax.full_like(u, 1), shift(u, by, 0, fill=1))

    @on_expressions
    def combine(left, right):
        (started, a), (starts, b) = left, right
        return started | starts, where(starts, 1, a) * b

    return lax.associative_scan(combine, (first, before), reverse=reverse)[1]


@vjp_rule("scatter-max", "x, i, u -> y")
def scatter_max_vjp(dy, x, i, u, **params):
    """y = max of x and the updates of each element; those that attain it share dy, x included."""
    return _share_among_extremes(dy, x, u, Selection.of_scatter(dy, i, u, params), lax.scatter_max)


@vjp_rule("scatter-min", "x, i, u -> y")
def scatter_min_vjp(dy, x, i, u, **params):
    """y = min of x and the updates of each element; those that attain it share dy, x included."""
    return _share_among_extremes(dy, x, u, Selection.of_scatter(dy, i, u, params), lax.scatter_min)


def _share_among_extremes(dy, x, u, S, scatter_extreme):
    """The extreme is compared with x and u in memory, never with the output y: see `reduce_max`.

    Where nothing attains it, beside a NaN, no gradient flows."""
    dy = wide(dy)

    @on_expressions
    def winners(x, u):
        extreme = S.write(scatter_extreme, x, u)
        return [x == extreme, u == S.read(extreme)]

    avals = [aval_of(operand.array).update(dtype=bool) for operand in (x, u)]
    attains = in_memory(winners, avals, (x.array, u.array), dy.array)
    x_attains, u_attains = (Expr(mask).astype(dy.dtype) for mask in attains)
    count = S.write(lax.scatter_add, x_attains, u_attains)
    share = dy / Expr(lax.max(count.array, scalar(1, count)))
    return x_attains * share, None, u_attains * S.read(share)
