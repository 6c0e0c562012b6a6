"""The linear response of an optimizer, measured: what it does with a gradient, whatever it is called.

Linearised at a state, the updates are u[t] = -sum_k h[k] g[t-k]. Whatever a chain holds, momentum, second moments,
schedules, is in these h[k], and no optimizer is inspected by its name. Second moments stay as they are, for at a
gradient of zero their derivative is zero.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .critical_rate import Critical, critical_curvature
from .linearised import LONGEST, Linearised, Programs, Update, odd_part
from .vectors import add, dot, norm

SHORTEST = 32  # steps of a time course
DIAGONAL, SEPARABLE = 1e-2, 1e-2  # relative errors that are none
LINEAR = 0.25  # how far the actual update may be off the linear one


class Agreement(NamedTuple):
    """Of the linear response to an actual gradient with the actual update.

    Attributes:
      clipped: the update relative to the linear response, along it; 1 if it is linear.
      deviation: the relative distance of the two.
    """

    clipped: float = 1.0
    deviation: float = 0.0


EXACT = Agreement()


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


def compare_with_actual(update: Update, state: Any, gradient: Any, *operands: Any) -> Agreement:
    """How far the update for an actual gradient is from the linear response; arguments as of `measure_response`."""

    @jax.jit
    def numbers(state: Any, gradient: Any, operands: Any) -> jax.Array:
        linear = Linearised(update, gradient, state, operands, frozenset())
        expected = linear.step(gradient, linear.rest)[0]
        actual = odd_part(lambda gradient, state: update(gradient, state, *operands), state, gradient)
        return jnp.stack([norm(add(actual, expected, -1.0)), norm(expected), dot(actual, expected)])

    apart, length, along = map(float, numbers(state, gradient, operands))
    if not np.isfinite(length):
        return Agreement(np.nan, np.inf)
    if length == 0 and not apart > 0:  # an optimizer that waits does nothing yet
        return EXACT
    return Agreement(along / max(length**2, 1e-300), apart / max(length, 1e-300))


def measure_response(
    update: Update, state: Any, like: Any, key: jax.Array, *operands: Any, agreement: Agreement = EXACT
) -> Response:
    """The response of an optimizer at a state of its own.

    Args:
      update: the optimizer.
      state: where it is linearised.
      like: what is like a gradient: a leaf for each that is trained, of which types alone are read.
      key: of the random signs that are fed.
      *operands: what else the optimizer reads: handed to `update`, or they would be constants of a program.
      agreement: of the linear response with an actual update.
    """
    given, (first, second) = (state, operands), jax.random.bits(key, (2,), jnp.uint32)
    programs, gain, steps = _settled(Programs(update, like), first, given)
    off, size = map(float, jax.jit(programs.compared)(second, gain, steps, given))
    off = off / size if 0 < size < np.inf else np.inf
    if not np.isfinite(off + agreement.deviation):
        return Response(gain, np.zeros(1), Critical(np.nan, np.pi), np.inf, 0.0, np.nan, np.inf)
    gain = jax.jit(lambda tree: jax.tree.map(jnp.abs, tree), donate_argnums=0)(gain)
    length = int(np.clip(2 * int(steps), SHORTEST, LONGEST))
    impulse, inseparable = time_course(*jax.jit(programs.impulse, static_argnums=2)(first, gain, length, given))
    return Response(gain, impulse, critical_curvature(impulse), off, inseparable, *agreement)


def _settled(programs: Programs, seed: jax.Array, given: Any) -> tuple[Programs, Any, jax.Array]:
    """The programs of all leaves of the state that respond; the gain, with its sign; after how many steps it was
    reached."""
    gain, steps, lost = jax.jit(programs.settled)(seed, given)
    more = frozenset(i for i, flag in lost.items() if flag)
    if not more:
        return programs, gain, steps
    del gain  # or it were in memory beside the next one
    return _settled(programs.responding_too(more), seed, given)


def time_course(along: Any, squares: Any, size: Any) -> tuple[np.ndarray, float]:
    """The response in units of the gain, (steps,), and how much of it is not in proportion to the gain."""
    along, squares, size = (np.asarray(x, float) for x in (along, squares, size))
    beside = max(squares.sum() - (along**2).sum() / size, 0.0)
    return along / size, float(np.sqrt(beside / squares.sum())) if squares.sum() else 0.0
