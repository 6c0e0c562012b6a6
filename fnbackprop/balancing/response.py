"""The linear response of an optimizer, measured: what it does with a gradient, whatever it is called.

Linearised at a state, the updates are u[t] = -sum_k h[k] g[t-k]. Whatever a chain holds, momentum, second moments,
schedules, is in these h[k], and no optimizer is inspected by its name. Second moments stay as they are, for at a
gradient of zero their derivative is zero.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .critical_rate import Critical, critical_curvature
from .vectors import add, dot, norm, scale, times

Update = Callable[..., tuple[Any, Any]]
"""`update(gradient, state, *operands) -> (updates, state)`, of an optimizer at fixed parameters."""

SETTLED = 1e-6  # the relative change per step at which an alternating gradient has its full effect
SHORTEST, LONGEST = 32, 2048  # steps
DIAGONAL, SEPARABLE = 1e-2, 1e-2  # relative errors that are none
LINEAR = 0.25  # how far the actual update may be off the linear one


@dataclasses.dataclass(frozen=True)
class Response:
    """What an optimizer does with small gradients.

    Attributes:
      gain: for each parameter, how far it moves against a gradient that changes its sign at every step, relative to it.
      impulse: the time course h[k] of the response to one gradient, in units of the gain, (steps,).
      critical: the curvature times gain that makes the iteration unstable, and the angle of its oscillation.
      off_diagonal: how much of the response to a gradient is not a gain for each parameter, relative.
      inseparable: how much of the time course is not the same for all parameters, relative.
      clipped: the update for the actual gradient relative to the linear response, along it; 1 if it is linear.
      deviation: the relative distance of the two.
    """

    gain: Any = dataclasses.field(repr=False)
    impulse: np.ndarray = dataclasses.field(repr=False)
    critical: Critical
    off_diagonal: float
    inseparable: float
    clipped: float
    deviation: float

    def without_gain(self) -> "Response":
        """The same, without the gain and its memory."""
        return dataclasses.replace(self, gain=None)

    @property
    def is_diagonal(self) -> bool:
        return self.off_diagonal <= DIAGONAL

    @property
    def is_linear(self) -> bool:
        return self.is_diagonal and self.deviation <= LINEAR

    @property
    def why_not_linear(self) -> str:
        """One clause; empty if it is linear."""
        if not np.isfinite(self.off_diagonal):
            return "the optimizer does not respond to small gradients in proportion: it takes their signs, or waits"
        if not self.is_diagonal:
            return f"the update of a parameter depends on the gradients of others ({self.off_diagonal:.0%} of it)"
        if self.deviation > LINEAR:
            return f"the actual update is {self.clipped:.2g} of the linear one: the gradient is clipped or normalised"
        return ""


def measure_response(update: Update, state: Any, gradient: Any, key: jax.Array, *operands: Any) -> Response:
    """The response of an optimizer at a state of its own.

    Args:
      update: the optimizer.
      state: where it is linearised.
      gradient: an actual one, with which the linear response is compared. A leaf for each that is trained.
      key: of the random signs that are fed.
      *operands: what else the optimizer reads: handed to `update`, or they would be constants of a program.
    """
    given = (state, gradient, operands)

    def linear(state: Any, gradient: Any, operands: Any) -> Linearised:
        return Linearised(lambda gradient, state: update(gradient, state, *operands), state, gradient)

    first, second = jax.jit(lambda like: tuple(random_signs(k, like) for k in jax.random.split(key)))(gradient)

    alternating = jax.jit(lambda vector, given: linear(*given).alternating(vector))
    (one, steps), (two, _) = alternating(first, given), alternating(second, given)

    @jax.jit
    def compared(one: Any, two: Any, given: Any) -> tuple[Any, jax.Array]:
        """The gain; how far the second vector shows another, and how far the actual update is from the linear one."""
        state, gradient, operands = given
        expected = linear(*given).to_one(gradient)
        actual = odd_part(lambda gradient, state: update(gradient, state, *operands), state, gradient)
        gain, again = times(first, one), times(second, two)
        apart = [add(again, gain, -1.0), gain, add(actual, expected, -1.0), expected]
        return jax.tree.map(jnp.abs, gain), jnp.stack([*map(norm, apart), dot(actual, expected)])

    gain, numbers = compared(one, two, given)
    off, size, apart, length, along = map(float, numbers)
    off = off / size if 0 < size < np.inf else np.inf
    if not np.isfinite(off + length):
        return Response(gain, np.zeros(1), Critical(np.nan, np.pi), np.inf, 0.0, np.nan, np.inf)
    gain = jax.tree.map(lambda x, like: x.astype(like.dtype), gain, gradient)
    length_of_course = int(np.clip(2 * steps, SHORTEST, LONGEST))
    run = jax.jit(lambda signs, gain, given: linear(*given).impulse(signs, gain, length_of_course))
    impulse, inseparable = time_course(*run(first, gain, given))
    clipped, deviation = 1.0, 0.0
    if length > 0 or apart > 0:  # an optimizer that waits does nothing yet
        clipped, deviation = along / max(length**2, 1e-300), apart / max(length, 1e-300)
    return Response(gain, impulse, critical_curvature(impulse), off, inseparable, clipped, deviation)


def random_signs(key: jax.Array, like: Any) -> Any:
    """Independent +1 and -1."""
    return optax.tree.random_like(key, like, _rademacher)


def _rademacher(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
    return jax.random.rademacher(key, shape, jnp.float32).astype(dtype)


def odd_part(update: Update, state: Any, gradient: Any) -> Any:
    """Half the distance between the updates against a gradient and against its opposite: weight decay, momentum so far
    and the growth of second moments are the same in both."""
    there, back = (update(scale(gradient, sign), state)[0] for sign in (1.0, -1.0))
    return scale(add(back, there, -1.0), 0.5)


def _known(tangent: jax.Array) -> jax.Array:
    """Zero where there is no derivative, as that of a root at zero: of a parameter that never had a gradient."""
    return jnp.where(jnp.isnan(tangent), jnp.zeros_like(tangent), tangent)


class Linearised:
    """An optimizer's derivative at a gradient of zero and at one state, iterated. Signs: against the update.

    Args:
      update, state, gradient: as for `measure_response`.
    """

    def __init__(self, update: Update, state: Any, gradient: Any):
        leaves, structure = jax.tree.flatten(state)
        moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
        start = [jnp.asarray(leaves[i]) for i in moving]
        zero = optax.tree.zeros_like(gradient)

        def of_floating(gradient: Any, floating: list[Any]) -> tuple[Any, list[Any]]:
            whole = list(leaves)
            for i, leaf in zip(moving, floating, strict=True):
                whole[i] = leaf
            updates, after = update(gradient, structure.unflatten(whole))
            after = jax.tree.leaves(after)
            return scale(updates, -1.0), [after[i].astype(x.dtype) for i, x in zip(moving, start, strict=True)]

        def step(gradient: Any, moved: list[Any]) -> tuple[Any, list[Any]]:
            return jax.tree.map(_known, jax.jvp(of_floating, (zero, start), (gradient, moved))[1])

        self._step, self._rest = step, optax.tree.zeros_like(start)

    def to_one(self, gradient: Any) -> Any:
        """The response to a gradient at once."""
        return self._step(gradient, self._rest)[0]

    def alternating(self, vector: Any) -> tuple[Any, jax.Array]:
        """The response to v, -v, v ... once it has settled, of the sign of the last one; and after how many steps."""

        def goes_on(carry: tuple) -> jax.Array:
            _, before, now, count = carry
            change = norm(add(now, before, -1.0))
            return (count < 2) | ((change > SETTLED * norm(now)) & (count < LONGEST))

        def turn(carry: tuple) -> tuple:
            moved, _, now, count = carry
            sign = jnp.where(count % 2 == 0, 1.0, -1.0)
            found, moved = self._step(scale(vector, sign), moved)
            return moved, now, scale(found, sign), count + 1

        first = (self._rest, optax.tree.zeros_like(vector), optax.tree.zeros_like(vector), jnp.zeros((), jnp.int32))
        _, before, now, count = jax.lax.while_loop(goes_on, turn, first)
        return scale(add(now, before), 0.5), count  # partial sums of an alternating series: their middle is nearer

    def impulse(self, signs: Any, gain: Any, steps: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of the response to one gradient of these signs: its products with the gain, its squares, and the gain's."""
        reference = times(signs, gain)

        def turn(carry: tuple, _: Any) -> tuple[tuple, tuple[jax.Array, jax.Array]]:
            fed, moved = carry
            found, moved = self._step(fed, moved)
            return (optax.tree.zeros_like(fed), moved), (dot(reference, found), dot(found, found))

        along, squares = jax.lax.scan(turn, (signs, self._rest), None, length=steps)[1]
        return along, squares, dot(reference, reference)


def time_course(along: Any, squares: Any, size: Any) -> tuple[np.ndarray, float]:
    """The response in units of the gain, (steps,), and how much of it is not in proportion to the gain."""
    along, squares, size = (np.asarray(x, float) for x in (along, squares, size))
    beside = max(squares.sum() - (along**2).sum() / size, 0.0)
    return along / size, float(np.sqrt(beside / squares.sum())) if squares.sum() else 0.0
