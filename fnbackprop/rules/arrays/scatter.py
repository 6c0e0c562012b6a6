"""Writing at indices: the scatters. `dx` is the cotangent of `x`: same shape and dtype.

A scatter combines windows of updates `u` into `x` at the starts `i`. With S the 0-1 matrix that reads where it writes
(a gather, laid out as u), scatter-add is y = x + Sᵀ u.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from ...backprop.precision import wide
from ...backprop.registry import Structured, structured_rule, vjp_rule
from ...jaxprs.avals import aval_of, operand_avals
from ...jaxprs.evaluate import bind
from ...jaxprs.types import close_jaxpr
from ..expressions import scalar
from .indexing import gather_dimensions, scatter_flags, write_along, zeros_of
from .layouts import reshape_like


@vjp_rule("scatter-add", "x, i, u -> y", wrt="x")
def scatter_add_vjp_x(dy):
    """y = x + Sᵀ u: dx = dy."""
    return dy


@vjp_rule("scatter-add", "x, i, u -> y", wrt="u")
def scatter_add_vjp_u(dy, i, u_aval, **params):
    """y = x + Sᵀ u: du = S dy, a gather; an update that was left out reads zero."""
    return Windows.of(dy, i, u_aval, params).read(dy)


@vjp_rule("scatter-sub", "x, i, u -> y", wrt="x")
def scatter_sub_vjp_x(dy):
    """y = x - Sᵀ u: dx = dy."""
    return dy


@vjp_rule("scatter-sub", "x, i, u -> y", wrt="u")
def scatter_sub_vjp_u(dy, i, u_aval, **params):
    """y = x - Sᵀ u: du = -S dy."""
    return lax.neg(Windows.of(dy, i, u_aval, params).read(dy))


@structured_rule("scatter")
def scatter_vjp(engine, equation, active, wanted):
    """y = x with u written over it, or, given a function f in place of u, with f applied there (`x.at[i].apply`)."""
    f = equation.params["update_jaxpr"]
    backward = _set_vjp if f is None else _apply_vjp(engine, close_jaxpr(f))
    _, _, u_aval = operand_avals(equation)

    def forward(x, i, u):
        return bind(equation, (x, i, u)), (i, None if f is None else x)

    def pull(residuals, dys):
        i, x = residuals
        windows = Windows.of(dys[0], i, u_aval, equation.params)
        return backward(dys[0], x, windows, u_aval, active)

    return Structured(forward, pull, (active[0], False, active[2] and f is None))


def _set_vjp(dy, x, windows, u_aval, active):
    """dx = dy where nothing was written, du = S dy for the update that is left standing.

    Of several updates of one element that is the one whose number stands there when numbers, from 1, are written in
    the same way. JAX leaves the order of the writes open; that it depends on the indices alone is taken on trust: it
    holds on a CPU, where the last write stands.
    """
    dx = windows.write(lax.scatter, dy, zeros_of(u_aval, dy.dtype)) if active[0] else None
    du = windows.read(dy) if active[2] else None
    if active[2] and not windows.distinct:
        numbers = _numbers(u_aval)
        written = windows.write(lax.scatter, zeros_of(aval_of(dy), numbers.dtype), numbers)
        du = lax.select(lax.eq(windows.read(written), numbers), du, lax.full_like(du, 0))
    return dx, None, du


def _numbers(aval):
    """1, 2, 3 ... in an array of this aval's shape."""
    count = lax.iota("uint32", math.prod(aval.shape))
    return reshape_like(lax.add(count, scalar(1, count)), aval)


def _apply_vjp(engine, closed):
    """y = f(f(... x)), as often as an element's index occurs: dx = dy f'(x) f'(f(x)) ...

    All is done on the elements that are touched, so f' is asked for nowhere else.
    """
    plan = engine.plan(closed, (True, False), (True,))

    def value_and_slope(v):
        (y,), residuals = engine.forward(plan, (v, v))
        (slope, _) = engine.backward(plan, residuals, [lax.full_like(y, 1)])
        return y, lax.full_like(v, 0) if slope is None else slope

    def backward(dy, x, windows, u_aval, active):
        v = lax.reshape(windows.read(x), (math.prod(u_aval.shape),))
        if windows.distinct:
            slope = jax.vmap(value_and_slope)(v)[1]
        else:
            ones = lax.full(u_aval.shape, 1, "int32")
            times = windows.read(windows.write(lax.scatter_add, zeros_of(aval_of(dy), "int32"), ones))
            slope = _slope_repeated(jax.vmap(value_and_slope), v, lax.reshape(times, v.shape))
        slope = lax.reshape(slope, u_aval.shape)
        return windows.write(lax.scatter, dy, lax.mul(windows.read(dy), slope)), None, None

    return backward


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
    windows = Windows.of(dy, i, u, params)
    return windows.write(lax.scatter_mul, dy, u)


@vjp_rule("scatter-mul", "x, i, u -> y", wrt="u")
def scatter_mul_vjp_u(dy, x, i, u, **params):
    """y = x Π u over the updates of each element: duⱼ = (S dy)ⱼ (S x)ⱼ Π uₖ over the element's other updates k ≠ j."""
    windows = Windows.of(dy, i, u, params)
    du = lax.mul(windows.read(dy), windows.read(x))
    if windows.distinct:
        return du
    return lax.mul(du, lax.convert_element_type(_product_of_others(wide(u), windows, aval_of(dy)), du.dtype))


def _product_of_others(u, windows, x_aval):
    """For each update the product of its element's other updates, without a division, so zeros are safe.

    Sorted by the element that they are written to, the updates of one element are a run; the others of an update
    are those before it in its run and those after.
    """
    element = windows.read(_numbers(x_aval))  # 0 for an update that is left out
    u = lax.select(lax.eq(element, lax.full_like(element, 0)), lax.full_like(u, 1), u)
    shape, flat = u.shape, (u.size,)
    element, u = lax.reshape(element, flat), lax.reshape(u, flat)
    run, u, order = lax.sort((element, u, lax.iota("int32", u.size)), num_keys=1)
    others = lax.mul(_product_before(run, u, reverse=False), _product_before(run, u, reverse=True))
    return lax.reshape(write_along(others, order, 0, u.size), shape)


def _product_before(run, u, reverse):
    """The product of the u before each one (after it, if `reverse`) within its run of equal numbers."""
    edge = [(-1, 1, 0)] if reverse else [(1, -1, 0)]
    first = lax.ne(run, lax.pad(run, scalar(0, run), edge))
    before = lax.select(first, lax.full_like(u, 1), lax.pad(u, scalar(1, u), edge))

    def combine(left, right):
        (started, a), (starts, b) = left, right
        return lax.bitwise_or(started, starts), lax.mul(lax.select(starts, lax.full_like(a, 1), a), b)

    return lax.associative_scan(combine, (first, before), reverse=reverse)[1]


@vjp_rule("scatter-max", "x, i, u -> y")
def scatter_max_vjp(dy, x, i, u, **params):
    """y = max of x and the updates of each element; those that attain it share dy, x included."""
    return _share_among_extremes(dy, x, u, Windows.of(dy, i, u, params), lax.scatter_max)


@vjp_rule("scatter-min", "x, i, u -> y")
def scatter_min_vjp(dy, x, i, u, **params):
    """y = min of x and the updates of each element; those that attain it share dy, x included."""
    return _share_among_extremes(dy, x, u, Windows.of(dy, i, u, params), lax.scatter_min)


def _share_among_extremes(dy, x, u, windows, scatter_extreme):
    """Who attains the extreme is asked of one materialised x and u, behind a barrier, and never of the output y.

    Where nothing does, beside a NaN, no gradient flows."""
    x, u = lax.optimization_barrier((x, u))
    extreme = windows.write(scatter_extreme, x, u)
    dy = wide(dy)
    x_attains = lax.convert_element_type(lax.eq(x, extreme), dy.dtype)
    u_attains = lax.convert_element_type(lax.eq(u, windows.read(extreme)), dy.dtype)
    count = windows.write(lax.scatter_add, x_attains, u_attains)
    share = lax.div(dy, lax.max(count, scalar(1, count)))
    return lax.mul(x_attains, share), None, lax.mul(u_attains, windows.read(share))


@dataclass(frozen=True)
class Windows:
    """The windows of one scatter: read them from an array like its operand, or write there again."""

    i: Any
    dimension_numbers: lax.ScatterDimensionNumbers
    slice_sizes: tuple[int, ...]
    promised: dict[str, Any]  # the flags of the scatter, which hold for reading
    flags: dict[str, Any]  # the flags that hold for writing

    @classmethod
    def of(cls, x: Any, i: Any, u: Any, params: dict[str, Any]) -> "Windows":
        """From the operand, starts and updates of a scatter (arrays or avals) and its parameters."""
        dimensions = params["dimension_numbers"]
        absent = {*dimensions.inserted_window_dims, *dimensions.operand_batching_dims}
        window = iter(dimensions.update_window_dims)
        sizes = tuple(1 if d in absent else u.shape[next(window)] for d in range(len(x.shape)))
        promised = {name: params[name] for name in ("unique_indices", "indices_are_sorted", "mode")}
        flags = scatter_flags(gather_dimensions(dimensions), sizes, i, *promised.values())
        return cls(i, dimensions, sizes, promised, flags)

    @property
    def distinct(self) -> bool:
        """Whether it is known that no element is written twice."""
        return self.flags["unique_indices"]

    def read(self, a: Any) -> Any:
        """S a, laid out as the updates; zero where an update is left out."""
        dimensions = gather_dimensions(self.dimension_numbers)
        return lax.gather(a, self.i, dimensions, self.slice_sizes, fill_value=0, **self.promised)

    def write(self, scatter: Any, a: Any, u: Any) -> Any:
        """The scatter (`lax.scatter`, `lax.scatter_add` ...) of u into a."""
        return scatter(a, self.i, u, self.dimension_numbers, **self.flags)
