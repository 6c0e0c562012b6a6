"""A step that makes several weight updates, one after the other: each is a step of its own on a part of the state."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from .partial_optimizer import flags_of
from .skipping import IN_A_ROW, SKIPPED, skip_metrics
from .state import TrainState, part_of, with_part
from .step_metrics import LAYER_NORMS, LayerNorms

Metrics = dict[str, Any]
Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
Made = tuple[TrainState, Metrics, Any]
"""The state after an update, its metrics, and whether it was made: a bool scalar, or None if it always is."""
UpdateFunction = Callable[..., Made]  # of the state, the batch and, if not always, whether its norms are looked at


def one_after_another(experiment: Experiment, steps: Mapping[str, UpdateFunction]) -> Step:
    """The step that makes the experiment's updates in their order.

    Args:
      experiment: has the updates.
      steps: `step(state, batch, measured)` of each, by its name; the optimizer's state there is its own.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        now, found, moved = state, {}, {}
        for update in experiment.updates:
            made = _so_often(update, steps[update.name], batch)
            part, found[update.name], moved[update.name] = _if_due(update, made, part_of(now, update.name))
            now = with_part(now, update.name, part)
        if experiment.ema is not None:
            ema = next_average(state.ema, now.params, experiment.ema, state.step)
            now = replace(now, ema=_where_moved(experiment.updates, moved, ema, state.ema))
        now = with_model_state(experiment, now, now.model_state, state.step)
        if experiment.ema_of_state and None not in moved.values():
            kept = jax.tree.map(_picked(_any(moved.values())), now.model_state_ema, state.model_state_ema)
            now = replace(now, model_state_ema=kept)
        return replace(now, step=state.step + 1), joint_metrics(experiment.updates, found, state, now)

    return step


def _where_moved(updates: Sequence[Update], moved: Mapping[str, Any], after: Any, before: Any) -> Any:
    """The average of the parameters after the step; that of those whose updates were all left out stays."""
    if None in moved.values():
        return after
    trains = {update.name: _flags(after, update.parameters) for update in updates}

    def of_leaf(number: int, new: jax.Array, old: jax.Array) -> jax.Array:
        own = [moved[name] for name, flags in trains.items() if flags[number]]
        return _picked(_any(own))(new, old) if own else new

    leaves, structure = jax.tree.flatten(after)
    return structure.unflatten(map(of_leaf, range(len(leaves)), leaves, jax.tree.leaves(before)))


def _flags(params: Any, patterns: str | Sequence[str] | None) -> list[bool]:
    if patterns is None:
        return [True] * len(jax.tree.leaves(params))
    return flags_of(params, [patterns] if isinstance(patterns, str) else patterns)


def _any(flags: Iterable[jax.Array]) -> jax.Array:
    return jnp.any(jnp.stack(list(flags)))


def _picked(flag: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda new, old: jnp.where(flag, new, old)


def _so_often(update: Update, step: UpdateFunction, batch: Any) -> Callable[[TrainState], Made]:
    """A function of the state that makes the update `times` times; its metrics are those of the last time."""

    def once(state: TrainState, time: Any) -> tuple[TrainState, tuple[Metrics, Any]]:
        after, *found = step(replace(state, key=jax.random.fold_in(state.key, time)), batch, time == update.times - 1)
        return replace(after, step=state.step, key=state.key), tuple(found)

    def made(state: TrainState) -> Made:
        if update.times == 1:
            return step(state, batch)
        state, (metrics, moved) = lax.scan(once, state, jnp.arange(update.times))
        return state, jax.tree.map(lambda values: values[-1], metrics), None if moved is None else jnp.any(moved)

    return made


def _if_due(update: Update, made: Callable[[TrainState], Made], state: TrainState) -> Made:
    """The update if its turn has come; else the state as it is, and metrics of zero. An average follows every step in
    which no update is left out for its numbers."""
    if update.every == 1:
        return made(state)
    made = jax.jit(made)  # traced once, for the shapes of its metrics and for the step

    def left_out(state: TrainState) -> Made:
        _, metrics, moved = jax.eval_shape(made, state)
        zeros = jax.tree.map(lambda metric: jnp.zeros(metric.shape, metric.dtype), metrics)
        return state, zeros, None if moved is None else jnp.bool_(True)

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
    norms, rows, count = [metrics[LAYER_NORMS] for metrics in found.values()], [], 0
    for own in norms:
        rows += [tuple(count + row for row in layer) for layer in own.rows]
        count += len(own.parts)
    return LayerNorms(jnp.concatenate([own.parts for own in norms]), names, tuple(rows))


def metrics_of_made(updates: Sequence[Update], step: int, metrics: Metrics) -> Metrics:
    """The metrics of a step without those of the updates that it left out."""
    left_out = tuple(f"{update.name}/" for update in updates if (step + 1) % update.every)
    return {name: value for name, value in metrics.items() if not name.startswith(left_out)} if left_out else metrics
