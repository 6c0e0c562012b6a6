"""A step that makes several weight updates, one after the other: each is a step of its own on a part of the state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnbackprop import trees
from fnbackprop.experiment import Experiment
from fnbackprop.updates import Update

from .model_state import with_model_state
from .moving_average import next_average
from .skipping import IN_A_ROW, SKIPPED, skip_metrics
from .state import TrainState, part_of, with_part
from .step_metrics import LAYER_NORMS, LayerNorms

Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]
Metrics = dict[str, Any]


def one_after_another(experiment: Experiment, steps: Mapping[str, Step]) -> Step:
    """The step that makes the experiment's updates in their order.

    Args:
      experiment: has the updates.
      steps: `step(state, batch) -> (state, metrics)` of each, by its name; the optimizer's state there is its own.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        now, found = state, {}
        for update in experiment.updates:
            made = _so_often(update, steps[update.name], batch)
            part, found[update.name] = _if_due(update, made, part_of(now, update.name))
            now = with_part(now, update.name, part)
        if experiment.ema is not None:
            now = replace(now, ema=next_average(state.ema, now.params, experiment.ema, state.step))
        now = with_model_state(experiment, now, now.model_state, state.step)
        return replace(now, step=state.step + 1), joint_metrics(experiment.updates, found, state, now)

    return step


def _so_often(update: Update, step: Step, batch: Any) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
    """A function of the state that makes the update `times` times; its metrics are those of the last time."""

    def once(state: TrainState, time: Any) -> tuple[TrainState, Metrics]:
        after, metrics = step(replace(state, key=jax.random.fold_in(state.key, time)), batch)
        return replace(after, step=state.step, key=state.key), metrics

    def made(state: TrainState) -> tuple[TrainState, Metrics]:
        if update.times == 1:
            return step(state, batch)
        state, metrics = lax.scan(once, state, jnp.arange(update.times))
        return state, jax.tree.map(lambda values: values[-1], metrics)

    return made


def _if_due(update: Update, made: Callable, state: TrainState) -> tuple[TrainState, Metrics]:
    """The update if its turn has come; else the state as it is, and metrics of zero."""
    if update.every == 1:
        return made(state)
    made = jax.jit(made)  # traced once, for the shapes of its metrics and for the step

    def left_out(state: TrainState) -> tuple[TrainState, Metrics]:
        shapes = jax.eval_shape(made, state)[1]
        return state, jax.tree.map(lambda metric: jnp.zeros(metric.shape, metric.dtype), shapes)

    return lax.cond((state.step + 1) % update.every == 0, made, left_out, state)


def joint_metrics(
    updates: Sequence[Update], found: Mapping[str, Metrics], before: TrainState, after: TrainState
) -> Metrics:
    """The metrics of a step: those of each update with its name before them, and those that every step has.

    "loss" is the sum over the updates that every step makes, "gradient_norm" the norm of their gradients together; one
    of the other updates counts if it is not finite.
    """
    regular = {update.name for update in updates if update.every == 1} or set(found)

    def counted(name: str, value: jax.Array) -> jax.Array:
        return value if name in regular else jnp.where(jnp.isfinite(value), 0, value)

    losses = [counted(name, metrics["loss"]) for name, metrics in found.items()]
    norms = [counted(name, metrics["gradient_norm"]) for name, metrics in found.items()]
    scale = {} if after.loss_scale is None else {"loss_scale": before.loss_scale.value}
    return {
        "loss": sum(losses[1:], losses[0]),
        "gradient_norm": trees.global_norm(norms),
        "update_ratio": trees.relative_change(before.params, after.params),
        LAYER_NORMS: _joint_norms(found),
        **scale,
        **skip_metrics(after),
        **{f"{name}/{key}": x for name, own in found.items() for key, x in own.items() if key not in _ONCE},
    }


_ONCE = (LAYER_NORMS, "loss_scale", SKIPPED, IN_A_ROW)


def _joint_norms(found: Mapping[str, Metrics]) -> LayerNorms:
    """The norms of all layers; of a layer that several updates train, with the name of the update before it."""
    named = [(update, layer) for update, metrics in found.items() for layer in metrics[LAYER_NORMS].names]
    layers = [layer for _, layer in named]
    names = tuple(f"{update}/{layer}" if layers.count(layer) > 1 else layer for update, layer in named)
    return LayerNorms(jnp.concatenate([metrics[LAYER_NORMS].values for metrics in found.values()]), names)


def metrics_of_made(updates: Sequence[Update], step: int, metrics: Metrics) -> Metrics:
    """The metrics of a step without those of the updates that it left out."""
    left_out = tuple(f"{update.name}/" for update in updates if (step + 1) % update.every)
    return {name: value for name, value in metrics.items() if not name.startswith(left_out)} if left_out else metrics
