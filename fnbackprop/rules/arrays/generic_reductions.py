"""`reduce` and `reduce_window` by any function: the VJP of an equivalent fold, a tree of vectorised calls.

XLA does not specify the order of these folds, nor how often the initial value is used, so the result is defined only
for an associative and commutative function. The tree here keeps the order and uses the initial value once, as XLA does
for small operands.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import numpy as np
from jax import lax

from ...backprop.jvp_by_rules import bind_with_jvp
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import explicit_sharding, lay_out, operand_avals
from ...jaxprs.evaluate import as_function, bind, interpret, trace_avals
from ...jaxprs.types import close_jaxpr
from .layouts import vary_alike


def vjp_of_equivalent(
    engine: Any,
    equation: Any,
    active: Sequence[bool],
    wanted: Sequence[bool],
    fun: Callable,
    replaced: bool = False,
):
    """A structured rule for a primitive that equals `fun`: forward the primitive, backward the VJP of `fun`.

    `fun` takes the operands and returns the list of outputs. Only the operands are saved.

    replaced: the forward is `fun` too, for a primitive that is slow on some platforms: a compiler merges it with what
        the backward computes of it again."""

    def aligned(*operands):
        return fun(*vary_alike(operands))

    closed = trace_avals(aligned, operand_avals(equation))
    plan = engine.new_plan(closed, tuple(active), tuple(wanted))

    def forward(*operands):
        if replaced:
            return as_function(closed)(*operands), operands
        return bind_with_jvp(engine, equation.primitive, equation.params, operands), operands

    def backward(operands, cotangents):
        _, residuals = engine.forward(plan, operands)
        return engine.backward(plan, residuals, cotangents)

    return Structured(forward, backward, plan.has_cotangent)


@structured_rule("reduce")
def reduce_vjp(engine, equation, active, wanted):
    """y = init ∘ x₀ ∘ x₁ ∘ ..., as a balanced tree of neighbours: logarithmic depth, linear work."""
    combine = _vectorised(equation)
    axes, count = equation.params["dimensions"], len(equation.invars) // 2

    def fold(*operands):
        xs, inits = operands[:count], operands[count:]
        xs = [_to_front(x, axes) for x in xs]  # (reduced, *kept)
        starts = _starts(equation, inits)
        if xs[0].shape[0] == 0:
            return starts
        return combine(starts, [lax.squeeze(x, [0]) for x in _tree(combine, xs)])

    return vjp_of_equivalent(engine, equation, active, wanted, fold)


def _starts(equation, inits):
    """The initial values as arrays that lie as the results do."""
    avals = [v.aval for v in equation.outvars]
    spread = [lax.broadcast(init, aval.shape) for init, aval in zip(inits, avals, strict=True)]
    return [lay_out(x, explicit_sharding(aval)) for x, aval in zip(spread, avals, strict=True)]


def _vectorised(equation):
    """The equation's function of two groups of scalars, on two lists of arrays of one shape."""
    closed = close_jaxpr(equation.params["jaxpr"])

    def combine(left, right):
        function = lambda *scalars: interpret(closed.jaxpr, closed.consts, scalars, _bind_alike)  # noqa: E731
        for _ in range(left[0].ndim):
            function = jax.vmap(function)
        return list(function(*left, *right))

    return combine


def _bind_alike(equation, operands):
    """In a `shard_map`, where a number in the function is the same on all devices and an operand is not."""
    return bind(equation, vary_alike(operands))


def _to_front(x, axes):
    """The reduced axes as one, in front."""
    kept = [a for a in range(x.ndim) if a not in axes]
    x = lax.transpose(x, (*axes, *kept))
    return lax.reshape(x, (math.prod(x.shape[: len(axes)]), *x.shape[len(axes) :]))


def _tree(combine, xs):
    """Fold along axis 0 to size 1, by combining neighbours; the last of an odd number is carried to the next level."""
    while (size := xs[0].shape[0]) > 1:
        even = size - size % 2
        left, right = ([lax.slice_in_dim(x, side, even, 2) for x in xs] for side in (0, 1))
        pairs = combine(left, right)
        xs = pairs if even == size else [lax.concatenate([p, x[-1:]], 0) for p, x in zip(pairs, xs, strict=True)]
    return xs


@structured_rule("reduce_window")
def reduce_window_vjp(engine, equation, active, wanted):
    """The fold of w neighbours is combined from folds of 1, 2, 4, ... by the bits of w, axis by axis. The last axis is
    first, which keeps the order of a window's elements.

    Padding and the holes of a base dilation are masked, not folded in, as in XLA."""
    combine, params = _first_wins(equation) or _vectorised(equation), equation.params
    count = len(equation.invars) // 2
    out_shape = equation.outvars[0].aval.shape

    def fold(*operands):
        xs, inits = operands[:count], operands[count:]
        starts = _starts(equation, inits)
        if 0 in out_shape:
            return starts
        config = [(*edges, hole - 1) for edges, hole in zip(params["padding"], params["base_dilation"], strict=True)]
        present = [_present(n, *c) for n, c in zip(xs[0].shape, config, strict=True)]
        xs = [lax.pad(x, _filler(x, init), config) for x, init in zip(xs, inits, strict=True)]
        for axis in reversed(range(len(out_shape))):
            size, stride = params["window_dimensions"][axis], params["window_strides"][axis]
            xs, mask = _fold_axis(combine, xs, present[axis], axis, size, params["window_dilation"][axis])
            xs = [lax.slice_in_dim(x, 0, None, stride, axis) for x in xs]
            present[axis] = mask[::stride]
        everywhere = reduce(np.logical_and, np.meshgrid(*present, indexing="ij", sparse=True), np.True_)
        return _select(everywhere, combine(starts, xs), starts)

    return vjp_of_equivalent(engine, equation, active, wanted, fold)


def _first_wins(equation):
    """For a maximum or minimum: the first wins a tie, as in the rules of `reduce_window_max` and `_min`."""
    equations = equation.params["jaxpr"].eqns
    prefer = {"max": lax.ge, "min": lax.le}.get(equations[0].primitive.name) if len(equations) == 1 else None
    return prefer and (lambda left, right: [lax.select(prefer(left[0], right[0]), left[0], right[0])])


def _filler(x, init):
    """The value of masked places: an element of x, where the function is as smooth as elsewhere in x.

    At an initial value such as -inf the derivative may be NaN, which a zero cotangent does not remove (NaN · 0)."""
    return lax.squeeze(lax.slice(x, [0] * x.ndim, [1] * x.ndim), range(x.ndim)) if x.size else init


def _present(size, low, high, interior):
    """Which places of a padded and dilated axis hold an element."""
    places = np.arange(-low, -low + size + low + high + max(size - 1, 0) * interior)
    return (places >= 0) & (places <= (size - 1) * (interior + 1)) & (places % (interior + 1) == 0)


def _fold_axis(combine, xs, mask, axis, size, dilation):
    """The fold of each window of `size` elements, `dilation` apart, along `axis`, and a mask: is it not empty?"""
    power, covered, done = (xs, mask), 1, 0
    folded = None
    while True:
        if size & covered:
            folded = power if folded is None else _join(combine, folded, power, done * dilation, axis)
            done += covered
        if done == size:
            return folded
        power = _join(combine, power, power, covered * dilation, axis)
        covered *= 2


def _join(combine, left, right, offset, axis):
    """Combine each place of `left` with the one `offset` further in `right`, where neither is masked."""
    (xs, x_mask), (ys, y_mask) = left, right
    size = len(y_mask) - offset
    xs = [lax.slice_in_dim(x, 0, size, axis=axis) for x in xs]
    ys = [lax.slice_in_dim(y, offset, offset + size, axis=axis) for y in ys]
    x_mask, y_mask = x_mask[:size], y_mask[offset:]
    both = combine(xs, ys)
    if not y_mask.all():
        both = _select(_along(y_mask, axis, xs[0].ndim), both, xs)
    if not x_mask.all():
        both = _select(_along(x_mask, axis, xs[0].ndim), both, ys)
    return both, x_mask | y_mask


def _along(mask, axis, rank):
    return mask.reshape([-1 if a == axis else 1 for a in range(rank)])


def _select(mask, xs, ys):
    if mask.all():
        return xs
    return [lax.select(np.broadcast_to(mask, x.shape), x, y) for x, y in zip(xs, ys, strict=True)]
