"""What an experiment's `evaluate` is given."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from fnbackprop.experiment import Experiment
from fnbackprop.experiment_checks import has_parameter

from .step.state import TrainState


@partial(jax.tree_util.register_dataclass, data_fields=["step", "state"], meta_fields=["folder"])
@dataclass(frozen=True)
class EvaluationContext:
    """What `evaluate(params, context)` knows of the run, beside the parameters.

    It may be handed to a jitted function; `step` is an array there.

    Attributes:
      step: how many updates have been made, an int.
      state: the whole TrainState, with the parameters themselves where `params` is their moving average. Like
        `params`, nothing of it may be kept.
      folder: the run's folder, to write files in; None if the run writes none, or another process writes them.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax
      >>> seen = []
      >>> def evaluate(params, context):
      ...     seen.append((context.step, context.folder))
      ...     return {"w": params}
      >>> experiment = fb.Experiment(
      ...     name="line", init=lambda key: jnp.zeros(()), batch=lambda step: jnp.float32(3), steps=2,
      ...     loss=lambda w, batch, key: (w - batch) ** 2, optimizer=optax.sgd(0.25), evaluate=evaluate)
      >>> state = fb.train(experiment, directory=None, progress=False, trial=False)
      >>> seen
      [(2, None)]
    """

    step: int
    state: TrainState
    folder: Path | None


def context_of(experiment: Experiment, state: TrainState, folder: Path | None) -> tuple[EvaluationContext, ...]:
    """What `evaluate` is given after `state.evaluated`: a context, if it takes one."""
    if not has_parameter(experiment.evaluate, "context"):
        return ()
    return (EvaluationContext(int(state.step), state, folder),)
