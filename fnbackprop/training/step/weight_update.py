"""One step of training: forward pass, loss, backward pass, weight update."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from fnbackprop.experiment import Experiment

from .loss_gradient import make_gradient
from .mixed_precision import all_finite, precision_of
from .moving_average import next_average
from .state import TrainState
from .step_metrics import measure

if TYPE_CHECKING:
    from ..sharding_rules import Layout

Update = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def compiled(update: Update, layout: "Layout | None" = None) -> Update:
    """The update as one program that reuses the memory of the state it is given, and leaves it where it was."""
    if layout is None:
        return jax.jit(update, donate_argnums=0)
    return jax.jit(update, donate_argnums=0, out_shardings=(layout.state, layout.replicated))


def make_update(experiment: Experiment, backward: str = "manual", layout: "Layout | None" = None) -> Update:
    """The pure function `update(state, batch) -> (state, metrics)`.

    `metrics` holds the loss, what `measure` measures, and what the experiment's loss returns beside it.
    A gradient that is not finite changes nothing but the loss scale, where there is one.
    """
    gradient_of = make_gradient(experiment, backward, precision_of(experiment.precision))

    def update(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        scale = None if state.loss_scale is None else state.loss_scale.value
        (loss, metrics), gradient = gradient_of(state.params, batch, key, scale)
        if layout is not None:  # summed over the devices to where it is needed, and nowhere else
            gradient = jax.lax.with_sharding_constraint(gradient, layout.state.params)
        after = _updated(experiment, state, gradient)
        metrics = {"loss": loss, **measure(gradient, state.params, after.params), **metrics}
        if scale is None:
            return after, metrics
        return _unless_broken(state, after, gradient), {**metrics, "loss_scale": scale}

    return update


def _updated(experiment: Experiment, state: TrainState, gradient: Any) -> TrainState:
    """The state after the weight update."""
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it; the user may have set "strict"
        updates, opt_state = experiment.optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    ema = None if experiment.ema is None else next_average(state.ema, params, experiment.ema, state.step)
    return TrainState(params, opt_state, state.step + 1, state.key, ema, state.loss_scale)


def _unless_broken(before: TrainState, after: TrainState, gradient: Any) -> TrainState:
    """The state after the update if the gradient is finite; if not, the one before it, with half the loss scale."""
    finite = all_finite(gradient)
    new, old = ((s.params, s.opt_state, s.ema) for s in (after, before))
    params, opt_state, ema = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return TrainState(params, opt_state, after.step, after.key, ema, before.loss_scale.after(finite))
