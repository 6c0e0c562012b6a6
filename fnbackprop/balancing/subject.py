"""What is balanced: one state of a run, and the pure functions of its step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .vectors import add, dot, dots

Params = dict[str, jax.Array]
"""The parameters that are trained, by their paths; gradients and updates alike."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A state of a run, and what its step is made of.

    Attributes:
      name: of the experiment.
      step: how many updates lie behind the state.
      params: the state's parameters.
      opt_state: `opt_state()`, the optimizer's state. One that is new is made each time, and none is kept in memory.
      batch: `batch(step)`, placed on the devices.
      key: `key(step)`, that of the loss.
      value_and_gradient: `(params, batch, key) -> (loss, gradient)`, as the run computes them.
      gradient: `(params, batch, key) -> gradient` for curvature: rounding to 16 bits is no curvature.
      loss: `(params, batch, key) -> loss`, without a backward pass.
      part: `part(batch)`, what of a batch is in memory at once: a microbatch.
      update: `(gradient, opt_state, params, loss, batch, key) -> (updates, opt_state)`.
      batch_size: examples or tokens in a batch.
      unit: "examples" or "tokens".
      rate: the learning rate, if it is known.
    """

    name: str
    step: int
    params: Params = dataclasses.field(repr=False)
    opt_state: Callable[[], Any]
    batch: Callable[[int], Any]
    key: Callable[[int], jax.Array]
    value_and_gradient: Callable[..., tuple[jax.Array, Params]]
    gradient: Callable[..., Params]
    loss: Callable[..., jax.Array]
    part: Callable[[Any], Any]
    update: Callable[..., tuple[Params, Any]]
    batch_size: int
    unit: str = "examples"
    rate: float | None = None


@dataclasses.dataclass
class Cost:
    """What has been computed, in forward-backward passes: a product with the Hessian counts as two."""

    passes: int = 0


class Machine:
    """The compiled parts of a subject's step, and what they have cost.

    Args:
      subject: whose step it is.
      batches: how many batches there are; a later one is one of them again.
    """

    def __init__(self, subject: Subject, batches: int):
        self.subject, self.cost, self._count = subject, Cost(), batches
        self._batches: dict[int, Any] = {}
        self._gradient = jax.jit(subject.value_and_gradient)
        self._slope = jax.jit(lambda params, along, *batch: dot(subject.value_and_gradient(params, *batch)[1], along))
        self._advance = jax.jit(lambda *args: self._advanced(*args)[:2], donate_argnums=(0, 1))
        self._downhill = jax.jit(lambda gradient, *args: dots(*_pairs(gradient, subject.update(gradient, *args)[0])))
        # Arguments in the order of the results: each takes the memory of the one in its place.
        self._advance_seen = jax.jit(lambda p, o, g, *args: self._advanced(g, o, p, *args), donate_argnums=(0, 1, 2))
        self._settle = jax.jit(lambda *args: subject.update(*args)[1], donate_argnums=1)
        self._updates = jax.jit(lambda *args: subject.update(*args)[0], donate_argnums=0)

    def batch(self, number: int) -> tuple[Any, jax.Array]:
        """The batch and the key of the step that is so many after the subject's."""
        number %= self._count
        if number not in self._batches:
            self._batches[number] = self.subject.batch(self.subject.step + number)
        return self._batches[number], self.subject.key(self.subject.step + number)

    def gradient(self, params: Params, number: int) -> tuple[jax.Array, Params]:
        """(loss, gradient) of a batch."""
        self.cost.passes += 1
        return self._gradient(params, *self.batch(number))

    def slope(self, params: Params, along: Params, number: int) -> jax.Array:
        """Of a batch's loss along a vector; the gradient need not be in memory as a whole."""
        self.cost.passes += 1
        return self._slope(params, along, *self.batch(number))

    def advance(
        self, gradient: Params, opt_state: Any, params: Params, loss: jax.Array, number: int, factor: float
    ) -> tuple[Params, Any]:
        """(params, opt_state) after an update at a multiple of the learning rate; gradient and state are used up."""
        return self._advance(gradient, opt_state, params, loss, jnp.float32(factor), *self.batch(number))

    def advance_seen(
        self, gradient: Params, opt_state: Any, params: Params, loss: jax.Array, number: int, factor: float
    ) -> tuple[Params, Any, Params, jax.Array]:
        """The same, with the updates and the slope of the loss along them; the parameters are used up, too. The
        updates are computed twice, for the slope alone first: they may take the gradient's memory then."""
        slope = self._downhill(gradient, opt_state, params, loss, *self.batch(number))[0]
        return *self._advance_seen(params, opt_state, gradient, loss, jnp.float32(factor), *self.batch(number)), slope

    def settled(self, steps: int) -> Any:
        """The optimizer's state after the gradients of so many batches, which moved no parameter."""
        params, opt_state = self.subject.params, copied(self.subject.opt_state())
        for number in range(steps):
            loss, gradient = self.gradient(params, number)
            opt_state = self._settle(gradient, opt_state, params, loss, *self.batch(number))
            del gradient  # or it were in memory beside the next one
        return opt_state

    def updates(self, gradient: Params, opt_state: Any, params: Params, loss: jax.Array, number: int) -> Params:
        """The updates at the learning rate; the gradient is used up."""
        return self._updates(gradient, opt_state, params, loss, *self.batch(number))

    def _advanced(self, gradient, opt_state, params, loss, factor, batch, key) -> tuple[Params, Any, Params]:
        updates, opt_state = self.subject.update(gradient, opt_state, params, loss, batch, key)
        return add(params, updates, factor), opt_state, updates


def _pairs(gradient: Params, updates: Params) -> tuple[tuple[Params, Params], ...]:
    """For `dots`: with one pair alone, the updates would be in memory."""
    return (gradient, updates), (updates, updates)


def copied(tree: Any) -> Any:
    """A copy whose memory may be donated."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)
