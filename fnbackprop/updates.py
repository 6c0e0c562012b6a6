"""A weight update by name: of an experiment that makes several of them, one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .experiment_checks import (
    RESERVED_METRICS,
    ExperimentError,
    check_integer,
    check_optimizer,
    check_patterns,
)

if TYPE_CHECKING:
    import optax

PREFIXES = ("evaluate", "gradient_norm", "watch")
"""What the names of other metrics begin with, before a "/"."""


@dataclass(frozen=True)
class Update:
    """One of the weight updates that a step makes: its loss, its optimizer and its part of the parameters.

    `Experiment(updates=[...])` makes them in their order, each from the parameters that the one before it left; so
    adversarial losses, alternating minimisation, an actor and its critic are written. No gradient is computed but that
    of the update's own parameters, and nothing at all in a step that leaves the update out.

    Args:
      name: in the metrics ("critic/loss", "critic/gradient_norm" ...) and in the optimizers' states.
      loss: as `Experiment.loss`; it is given all parameters.
      optimizer: an optax transformation.
      parameters: patterns of the paths of the parameters that it changes, with everything below them: "critic",
        "blocks/*/w", or several of them. None changes all.
      every: it is made in every so-many-th step: with 5, in steps 4, 9, 14 ... A critic that takes five batches for
        one of the generator is `Update("critic", ...)` and `Update("generator", ..., every=5)`.
      gradient: as `Experiment.gradient`.
      times: how often it is made in a step, each time with the same batch and another key.

    Raises:
      ExperimentError: a function takes other arguments, or a value makes no sense.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax
      >>> def gap(params, batch, key):
      ...     return (params["x"] - params["y"]) ** 2 + batch * params["x"]
      >>> minimax = fb.Experiment(
      ...     name="minimax", init=lambda key: {"x": jnp.ones(()), "y": jnp.zeros(())},
      ...     batch=lambda step: 0.1, steps=40,
      ...     updates=[fb.Update("follow", loss=gap, optimizer=optax.sgd(0.1), parameters="y", times=2),
      ...              fb.Update("lead", loss=gap, optimizer=optax.sgd(0.1), parameters="x", every=2)])
      >>> state = fb.train(minimax, directory=None, progress=False)
      >>> sorted(state.opt_state)
      ['follow', 'lead']
    """

    name: str
    loss: Callable[..., Any]
    optimizer: "optax.GradientTransformation"
    parameters: str | Sequence[str] | None = None
    every: int = 1
    times: int = 1
    gradient: Callable[..., Any] | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name in PREFIXES + RESERVED_METRICS:
            raise ExperimentError(f"the name of an update must be a word, like 'critic', not {self.name!r}.")
        check_optimizer(f"the optimizer of the update {self.name}", self.optimizer)
        check_patterns(f"the parameters of the update {self.name}", self.parameters)
        for field in ("every", "times"):
            check_integer(f"{field} of the update {self.name}", getattr(self, field), at_least=1)


def check_updates(updates: Any) -> None:
    """Raises ExperimentError unless these are updates of different names."""
    for update in updates:
        if not isinstance(update, Update):
            raise ExperimentError(f"updates must be fb.Update(name, loss=..., optimizer=...), not {update!r}.")
    names = [update.name for update in updates]
    if len(set(names)) < len(names):
        raise ExperimentError(f"each of the updates needs a name of its own, but they are {', '.join(names)}.")
