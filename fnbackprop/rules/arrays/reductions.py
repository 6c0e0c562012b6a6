"""Reductions over axes. `dx` is the cotangent of `x`: same shape, same dtype."""

from jax import lax

from ...backprop import registry
from ...backprop.memory.recompute_barrier import in_memory
from ..expressions import Expr, on_expressions, vjp_rule, wide
from .generic_reductions import vjp_of_equivalent
from .layouts import spread


@registry.vjp_rule("reduce_sum")
def reduce_sum_vjp(dy, x_aval, *, axes):
    """y = Σ x: every summand gets dy."""
    return spread(dy, x_aval, axes)


@vjp_rule("reduce_max")
def reduce_max_vjp(dy, x, x_aval, y_aval, *, axes):
    """y = max x: dy goes to the greatest elements, in equal shares where several tie."""
    return _share_among_extremes(dy, x, x_aval, y_aval, axes, lax.reduce_max)


@vjp_rule("reduce_min")
def reduce_min_vjp(dy, x, x_aval, y_aval, *, axes):
    """y = min x: dy goes to the least elements, in equal shares where several tie."""
    return _share_among_extremes(dy, x, x_aval, y_aval, axes, lax.reduce_min)


def _share_among_extremes(dy, x, x_aval, y_aval, axes, reduce_extreme):
    """dx = dy / (number of elements that attain the extreme), at each of these.

    The extreme is compared with one x in memory, never with the output y: a compiler may compute x again inside each
    kernel that reads it, with another rounding (a fused multiply-add, a bfloat16 kept in float32), and then x == y
    holds nowhere. Extreme, comparison and count see the same numbers."""

    def back(y):
        return Expr(spread(y.array, x_aval, axes))

    @on_expressions
    def winners(x):
        attains = x == back(Expr(reduce_extreme(x.array, axes)))
        return [attains, Expr(lax.reduce_sum(attains.astype(total.dtype).array, axes))]

    total = wide(dy)
    avals = [x_aval.update(dtype=bool), y_aval.update(dtype=total.dtype)]
    attains, count = map(Expr, in_memory(winners, avals, (x.array,), dy.array))
    return attains.astype(dy.dtype) * back((total / count).astype(dy.dtype))


@registry.structured_rule("reduce_prod")
def reduce_prod_vjp(engine, equation, active, wanted):
    """y = Π x as a tree of products of two, z = uv with du = dz·v, dv = u·dz: nothing is divided, so zeros are safe."""

    def tree(x):
        for axis in equation.params["axes"]:
            x = _product(x, axis)
        return [lax.squeeze(x, equation.params["axes"])]

    return vjp_of_equivalent(engine, equation, active, wanted, tree)


def _product(x, axis):
    """The product along an axis, which is kept with size 1: of both halves, again and again."""
    if x.shape[axis] == 0:
        return lax.full_like(x, 1, shape=(*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    while (size := x.shape[axis]) > 1:
        half = size // 2
        halves = (lax.slice_in_dim(x, start, start + half, axis=axis) for start in (0, half))
        rest = lax.slice_in_dim(x, 2 * half, size, axis=axis)
        x = lax.mul(*halves)
        x = lax.concatenate([x, rest], axis) if size % 2 else x
    return x
