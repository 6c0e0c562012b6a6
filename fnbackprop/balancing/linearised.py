"""An optimizer's derivative at a gradient of zero, fed with random signs: programs that need few copies of the
parameters.

Large models have no room for many vectors. So what is fed is made where it is read, of what comes out only sums are
kept, and of the optimizer's state only those leaves have a derivative that a gradient changes: those of momentum, or of
Adam, are one copy of the parameters, beside the gain.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from .vectors import add, dot, dots, norm, scale, times

Update = Callable[..., tuple[Any, Any]]
"""`update(gradient, state, *operands) -> (updates, state)`, of an optimizer at fixed parameters."""

SETTLED = 1e-6  # the relative change per step at which an alternating gradient has its full effect
LONGEST = 2048  # steps
WAITS = 8  # steps that an optimizer may take before it does anything


def random_signs(seed: Any, like: Any) -> Any:
    """Independent +1 and -1: a bit of a number for each element, mixed with the seed. They are made where they are
    read, and need no memory. (The mixing is that of A. Appleby's MurmurHash3.)"""
    leaves, structure = jax.tree.flatten(like)
    seeds = [_mixed(jnp.asarray(seed, jnp.uint32) + jnp.uint32(i)) for i in range(len(leaves))]
    return structure.unflatten(list(map(_signs, seeds, leaves)))


def _signs(seed: jax.Array, like: Any) -> jax.Array:
    number = jnp.zeros(like.shape, jnp.uint32)
    for axis, count in enumerate(like.shape):
        number = number * jnp.uint32(count) + lax.broadcasted_iota(jnp.uint32, like.shape, axis)
    return jnp.where(_mixed(number + seed) & jnp.uint32(1) == 0, 1, -1).astype(like.dtype)


def _mixed(x: jax.Array) -> jax.Array:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.uint32(factor)
    return x ^ (x >> jnp.uint32(16))


def odd_part(update: Update, state: Any, gradient: Any) -> Any:
    """Half the distance between the updates against a gradient and against its opposite: weight decay, momentum so far
    and the growth of second moments are the same in both."""
    there, back = (update(scale(gradient, sign), state)[0] for sign in (1.0, -1.0))
    return scale(add(back, there, -1.0), 0.5)


def _known(tangent: jax.Array) -> jax.Array:
    """Zero where there is no derivative, as that of a root at zero: of a parameter that never had a gradient."""
    return jnp.where(jnp.isnan(tangent), jnp.zeros_like(tangent), tangent)


class Linearised:
    """An optimizer's derivative at a gradient of zero and at one state, to be iterated. Signs: against the update.

    Args:
      update: the optimizer.
      like: what is like a gradient.
      state: where it is linearised.
      operands: what else the optimizer reads.
      responding: the numbers of the leaves of the state that have a derivative.

    Attributes:
      zero: a gradient. rest: the derivatives before the first one.
    """

    def __init__(self, update: Update, like: Any, state: Any, operands: Sequence[Any], responding: frozenset[int]):
        leaves, structure = jax.tree.flatten(state)
        floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
        self._update, self._operands = update, operands
        self._leaves, self._structure, self._floating = leaves, structure, floating
        self.zero = optax.tree.zeros_like(like)
        self._start = {i: jnp.asarray(leaves[i]) for i in sorted(responding)}
        self.rest = optax.tree.zeros_like(self._start)

    def step(self, gradient: Any, moved: dict[int, Any]) -> tuple[Any, dict[int, Any], dict[int, jax.Array]]:
        """(the response, the derivatives after it, of the other leaves whether they would have one)."""
        given = (self.zero, self._start), (gradient, moved)
        found, after = jax.tree.map(_known, jax.jvp(self._of_responding, *given)[1])
        lost = {i: jnp.any(after[i] != 0) for i in self._floating if i not in moved}
        return found, {i: after[i] for i in moved}, lost

    def _of_responding(self, gradient: Any, values: dict[int, Any]) -> tuple[Any, dict[int, Any]]:
        state = self._structure.unflatten([values.get(i, leaf) for i, leaf in enumerate(self._leaves)])
        updates, after = self._update(gradient, state, *self._operands)
        after = jax.tree.leaves(after)
        return scale(updates, -1.0), {i: after[i].astype(jnp.result_type(self._leaves[i])) for i in self._floating}


class Programs:
    """What is compiled to measure a response. Each method is pure, of arrays; `given` is (state, operands).

    Args:
      update: the optimizer.
      like: what is like a gradient, of which types alone are read.
      responding: the numbers of the leaves of the state that respond, as far as is known.
    """

    def __init__(self, update: Update, like: Any, responding: frozenset[int] = frozenset()):
        self._update, self._responding = update, responding
        self._like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), like)

    def responding_too(self, more: frozenset[int]) -> "Programs":
        return Programs(self._update, self._like, self._responding | more)

    def _made_anew(self, seed: Any, given: Any, *now: Any) -> tuple[Any, Linearised]:
        """The signs and the linearised optimizer, for one use at one step: what depends on no step would be computed
        before the loop, and what has several uses once, and be in memory until then."""
        seed, given, _ = lax.optimization_barrier((jnp.asarray(seed, jnp.uint32), given, now))
        return random_signs(seed, self._like), Linearised(self._update, self._like, *given, self._responding)

    def _turned(self, seed: Any, given: Any, count: Any, moved: Any) -> tuple[Any, Any, dict[int, jax.Array]]:
        """The response to v/2, -v, v, -v ..., of the sign of what was fed last. With half of the first, it is at each
        step the middle of two partial sums of an alternating series, which is nearer to the limit than both."""
        signs, linear = self._made_anew(seed, given, count)
        sign = jnp.where(count % 2 == 0, 1.0, -1.0)
        found, moved, lost = linear.step(scale(signs, jnp.where(count == 0, 0.5, sign)), moved)
        return scale(found, sign), moved, lost

    def settled(self, seed: Any, given: Any) -> tuple[Any, jax.Array, dict[int, jax.Array]]:
        """The response to alternating signs once its length has settled, relative to them; after how many steps; of the
        leaves that do not respond, whether they would."""
        linear = self._made_anew(seed, given)[1]

        def goes_on(carry: tuple) -> jax.Array:
            _, before, now, count, lost = carry
            unsettled = (jnp.abs(now - before) > SETTLED * now) & (count < LONGEST)
            waits = (count < 2) | ((now == 0) & (count < WAITS))
            return (waits | unsettled) & ~jnp.any(jnp.array([False, *lost.values()]))

        def turn(carry: tuple) -> tuple:
            moved, _, now, count, lost = carry
            found, moved, more = self._turned(seed, given, count, moved)
            return moved, now, norm(found).astype(now.dtype), count + 1, {i: lost[i] | more[i] for i in lost}

        length = jnp.zeros((), jax.eval_shape(norm, self._like).dtype)
        others = jax.eval_shape(lambda: linear.step(linear.zero, linear.rest)[2])
        first = (linear.rest, length, length, jnp.int32(0), {i: jnp.zeros((), bool) for i in others})
        moved, _, _, count, lost = lax.while_loop(goes_on, turn, first)
        return self._relative(seed, given, count, moved), count, lost

    def _relative(self, seed: Any, given: Any, count: Any, moved: Any) -> Any:
        """The gain that the response at this step shows."""
        found = self._turned(seed, given, count, moved)[0]
        gain = times(self._made_anew(seed, given, count)[0], found)
        return jax.tree.map(lambda x, like: x.astype(like.dtype), gain, self._like)

    def compared(self, seed: Any, gain: Any, steps: Any, given: Any) -> tuple[jax.Array, jax.Array]:
        """How far the response to other signs shows another gain; and the length of the gain."""
        rest = self._made_anew(seed, given)[1].rest
        turn = lambda count, moved: self._turned(seed, given, count, moved)[1]  # noqa: E731
        again = self._relative(seed, given, steps, lax.fori_loop(0, steps, turn, rest))
        apart = add(again, gain, -1.0)
        far, size = dots((apart, apart), (gain, gain))
        return jnp.sqrt(far), jnp.sqrt(size)

    def impulse(self, seed: Any, gain: Any, steps: int, given: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of the response to one gradient of these signs, step by step: its products with the gain, and its squares;
        and the gain's own square."""

        def turn(moved: Any, count: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            signs, linear = self._made_anew(seed, given, count)
            found, moved, _ = linear.step(scale(signs, jnp.where(count == 0, 1.0, 0.0)), moved)
            return moved, dots((times(signs, gain), found), (found, found))

        rest = self._made_anew(seed, given)[1].rest
        along, squares = lax.scan(turn, rest, jnp.arange(steps))[1]
        return along, squares, dot(gain, gain)
