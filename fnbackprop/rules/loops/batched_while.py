"""A batched while loop: under `vmap`, where each example has its own number of steps.

JAX keeps it as one loop. Its condition gives one flag for each example, of a shape B, the leading axes of every carry
(one axis for each `vmap` whose examples differ); it runs while any flag is set, and a step leaves the carry of a
finished example as it is. With p_t the flags of step t, this is the plain loop

    while any(p_t):  h_{t+1} = p_t ? f(c, h_t) : h_t

An example that has finished stays so, as its flag depends on its own carry alone: it takes n steps, and p_t = (t < n).
The forward counts them, k_t = min(t, n), as one more carry, so that the backward masks the same steps as the forward
(`k_t < n`), whatever the rounding of a recomputed h_t.

A finished example has the cotangent zero in f, but f may be singular at its last carry, and 0·inf or NaN in the sum
over the examples would spoil the cotangent of a constant that they share. So f is evaluated for it at s:

    dh_t = p_t ? fᵀ(c, s_t; dh_{t+1}) : dh_{t+1},     s_t = p_t ? h_t : s,     no cotangent flows through s

also in the forward, which may be differentiated again. f must be known to be regular at s, so s is a carry at which the
loop evaluates f: the example's own first one, if it takes a step. One that takes none has no such carry; s is then the
first carry of another example that takes one. There is one, or the loop has no step to reverse. Where f has constants
of each example, that one's are taken with its carry, as far as they can be told from what the examples share.

All this needs an example to depend on its own carry alone, as far as can be told (`example_axes.py`). Where a body or a
condition combines the examples, as by a collective over vmap's axis name, a finished example has influence on the
others and may go on again: there the loop is taken as it is written above, p_t from h_t and f at every h_t. Where f is
singular, elementwise, an exact zero stays one (`safe_select`), though not in a derivative of this derivative.
"""

from itertools import permutations
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from ...jaxprs.avals import aval_of, explicit_sharding, lay_out, with_partitions, zeros_like_aval
from ...jaxprs.evaluate import as_function, trace_avals
from ...jaxprs.lists import split
from ...jaxprs.views import While
from .example_axes import Axes, follow


def is_separate(loop: While) -> bool:
    """Whether no example of a batched loop depends on another's carry, as far as the equations tell."""
    first = tuple(range(len(loop.batch_shape)))
    carry = [first] * len(loop.body.jaxpr.outvars)
    steps = follow(loop.condition, [*[None] * loop.num_condition_consts, *carry])
    return all(axes in (None, first) for axes in (*steps, *follow(loop.body, [*[None] * loop.num_body_consts, *carry])))


def row_axes(body: Any, num_consts: int, batch_shape: tuple[int, ...]) -> tuple[Axes | None, ...]:
    """Of each of the first operands of `body`, the axes that count the examples, if each of them reads its own row
    alone, as far as the equations tell; else None. JAX does not write down which constants it has batched, and where.

    batch_shape: the shape of the first axes of the other operands, the carry, and of the results.
    """
    avals = [v.aval for v in body.jaxpr.invars]
    first = tuple(range(len(batch_shape)))
    carry = [first] * (len(avals) - num_consts)

    def is_read_by_row(number, axes):
        if tuple(avals[number].shape[a] for a in axes) != batch_shape:
            return False
        consts = [axes if i == number else None for i in range(num_consts)]
        return all(found in (None, first) for found in follow(body, [*consts, *carry]))

    def axes_of(number):
        candidates = permutations(range(getattr(avals[number], "ndim", 0)), len(batch_shape))
        return next((axes for axes in candidates if is_read_by_row(number, axes)), None)

    return tuple(map(axes_of, range(num_consts)))


class Masked(NamedTuple):
    """The two plain loops of a batched one. The body's constants of both begin with s; the carry of both ends with k.

    counting: steps while the condition holds; it runs forward. The constants of the condition come before s.
    replayed: steps while k < n; for the backward. n comes before s.
    row_axes: of the body's own constants that have a row for each example, the axes that count the examples.
    """

    loop: While
    counting: While
    replayed: While
    row_axes: tuple[Axes | None, ...]

    def no_steps(self) -> Any:
        """k before the first step."""
        return zeros_like_aval(self.replayed.body.jaxpr.invars[0].aval)

    def safe_constants(self, operands: list[Any]) -> list[Any]:
        """s and the body's constants: those at which the loop evaluates its body for an example that takes a step; for
        the others, those of one that does."""
        condition_consts, consts, first = self.loop.split(operands)
        (steps,) = as_function(self.loop.condition)(*condition_consts, *first)
        one = jnp.unravel_index(jnp.argmax(_gathered(steps, steps.ndim)), steps.shape)

        def safe(x):
            row = _gathered(lax.stop_gradient(x), steps.ndim)[one]
            axes = range(steps.ndim, x.ndim)
            return _choose(
                steps, x, lax.broadcast_in_dim(row, x.shape, axes, out_sharding=explicit_sharding(aval_of(x)))
            )

        def safe_along(c, axes):
            leading = range(steps.ndim)
            return c if axes is None else jnp.moveaxis(safe(jnp.moveaxis(c, axes, leading)), leading, axes)

        rows = map(safe_along, consts, self.row_axes)
        return [*(lax.stop_gradient(safe(x)) for x in first), *rows]


def masked(loop: While) -> Masked:
    """The plain loops of a batched one."""
    condition = as_function(loop.condition)
    condition_avals = _condition_avals(loop)
    consts, carry = loop.split_body([v.aval for v in loop.body.jaxpr.invars])
    counts = loop.condition.jaxpr.outvars[0].aval.update(dtype=jnp.int32)

    def any_goes_on(*operands):
        *operands, _ = operands
        (going,) = condition(*operands)
        return [lax.reduce_or(going, range(going.ndim))]

    def step_while_condition(*operands):
        condition_consts, safe, c, h, (k,) = split(operands, len(condition_avals), len(carry), len(consts), len(carry))
        (going,) = condition(*condition_consts, *h)
        return _step(loop, going, safe, c, h, k)

    def step_while_counted(n, *operands):
        safe, c, h, (k,) = split(operands, len(carry), len(consts), len(carry))
        return _step(loop, k < n, safe, c, h, k)

    body_avals = [*carry, *consts, *carry, counts]
    num_consts = len(carry) + len(consts)
    on = trace_avals(any_goes_on, [*condition_avals, *carry, counts])
    counting = trace_avals(step_while_condition, [*condition_avals, *body_avals])
    replayed = trace_avals(step_while_counted, [counts, *body_avals])
    return Masked(
        loop,
        While(on, counting, len(condition_avals), len(condition_avals) + num_consts),
        While(on, replayed, 0, 1 + num_consts),
        row_axes(loop.body, len(consts), loop.batch_shape),
    )


def written_out(loop: While) -> While:
    """A batched loop as a plain one that takes the flags from the carry at each step. Its body's constants begin with
    those of the condition."""
    condition, body = as_function(loop.condition), as_function(loop.body)
    condition_avals = _condition_avals(loop)
    consts, carry = loop.split_body([v.aval for v in loop.body.jaxpr.invars])

    def any_goes_on(*operands):
        (going,) = condition(*operands)
        return [lax.reduce_or(going, range(going.ndim))]

    def step(*operands):
        condition_consts, c, h = split(operands, len(condition_avals), len(consts))
        (going,) = condition(*condition_consts, *h)
        return [_choose(going, y, x) for y, x in zip(body(*c, *h), h, strict=True)]

    on = trace_avals(any_goes_on, [*condition_avals, *carry])
    stepped = trace_avals(step, [*condition_avals, *consts, *carry])
    return While(on, stepped, len(condition_avals), len(condition_avals) + len(consts))


def _condition_avals(loop: While) -> list[Any]:
    return [v.aval for v in loop.condition.jaxpr.invars[: loop.num_condition_consts]]


def _step(loop: While, going: Any, safe: list[Any], c: list[Any], h: list[Any], k: Any) -> list[Any]:
    """The next carry and k, of the examples that go on."""
    at = [_choose(going, x, s) for x, s in zip(h, safe, strict=True)]
    new = as_function(loop.body)(*c, *at)
    return [*(_choose(going, y, x) for y, x in zip(new, h, strict=True)), k + going.astype(jnp.int32)]


def _choose(flags: Any, x: Any, y: Any) -> Any:
    """x for the examples whose flag is set, y for the others."""
    aval = aval_of(x)
    spread = lax.broadcast_in_dim(flags, aval.shape, range(flags.ndim), out_sharding=explicit_sharding(aval))
    return lax.select(spread, x, y)


def _gathered(x: Any, axes: int) -> Any:
    """A value whose first axes are not divided among the devices of a mesh with explicit axes: one row can be read."""
    sharding = explicit_sharding(aval_of(x))
    if sharding is None:
        return x
    return lay_out(x, with_partitions(sharding, (*[None] * axes, *sharding.spec.partitions[axes:])))
