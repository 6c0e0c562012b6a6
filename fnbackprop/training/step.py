"""One step of training: forward pass, loss, backward pass, weight update."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from fnbackprop import trees
from fnbackprop.comparing.witnesses import value_and_grad_by
from fnbackprop.experiment import Experiment

from .state import TrainState

Update = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def make_update(experiment: Experiment, backward: str = "manual") -> Update:
    """The pure function `update(state, batch) -> (state, metrics)`.

    `metrics` holds the loss, the gradient's norm over all parameters, and what the experiment's loss returns beside it.
    """
    value_and_grad = value_and_grad_by(backward)(experiment.loss_and_metrics, has_aux=True)

    def update(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), gradient = value_and_grad(state.params, batch, key)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it; the user may have set "strict"
            updates, opt_state = experiment.optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "gradient_norm": trees.global_norm(gradient), **metrics}
        return TrainState(params, opt_state, state.step + 1, state.key), metrics

    return update
