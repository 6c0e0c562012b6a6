"""The weight update: optax's, and the moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fnbackprop.experiment import Experiment

from .loss_scale import all_finite
from .moving_average import next_average
from .state import TrainState


def updated(experiment: Experiment, state: TrainState, gradient: Any) -> TrainState:
    """The state after the weight update."""
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it; the user may have set "strict"
        updates, opt_state = experiment.optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    ema = None if experiment.ema is None else next_average(state.ema, params, experiment.ema, state.step)
    return TrainState(params, opt_state, state.step + 1, state.key, ema, state.loss_scale)


def unless_nonfinite(before: TrainState, after: TrainState, gradient: Any) -> TrainState:
    """The state after the update if the gradient is finite; otherwise the one before, with half the loss scale."""
    finite = all_finite(gradient)
    new, old = ((s.params, s.opt_state, s.ema) for s in (after, before))
    params, opt_state, ema = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return TrainState(params, opt_state, after.step, after.key, ema, before.loss_scale.after(finite))
