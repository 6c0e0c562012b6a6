"""Forward pass, loss and backward pass of a step: in its precision, with a loss scale, over microbatches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnbackprop import trees
from fnbackprop.comparing.gradient_sources import value_and_grad_by
from fnbackprop.experiment import WEIGHT, Experiment, ExperimentError, LossOutcome

from .mixed_precision import Precision, cast, cast_inputs
from .model_state import renewed
from .trainable import divide, joined

OutcomeAndGradient = tuple[LossOutcome, Any]


def loss_in_precision(experiment: Experiment, precision: Precision) -> Callable:
    """`loss(params, batch, key, model_state=None) -> (loss, metrics)`: `outcome_in_precision` without the new state."""
    outcome = outcome_in_precision(experiment, precision)

    def loss(
        params: Any, batch: Any, key: jax.Array, model_state: Any = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, metrics, _ = outcome(params, batch, key, model_state)
        return value, metrics

    return loss


def outcome_in_precision(experiment: Experiment, precision: Precision) -> Callable[..., LossOutcome]:
    """`experiment.outcome`, computed in one dtype of the precision and returned in another.

    The weight of a loss among its metrics is a count, and keeps its dtype; so does the model state.
    """

    def outcome(params: Any, batch: Any, key: jax.Array, model_state: Any = None) -> LossOutcome:
        params, batch = cast(params, precision.compute), cast_inputs(batch, precision)
        value, metrics, after = experiment.outcome(params, batch, key, model_state)
        weight = {WEIGHT: metrics[WEIGHT]} if WEIGHT in metrics else {}
        metrics = cast(metrics, precision.output) | weight
        return LossOutcome(cast(value, precision.output), metrics, renewed(model_state, after))

    return outcome


def make_value_and_grad(experiment: Experiment, backward: str, precision: Precision) -> Callable:
    """`value_and_grad(params, batch, key, scale, trainable, model_state) -> ((loss, metrics), gradient)`: as
    `make_outcome_and_grad`, without the new model state."""
    outcome_and_grad = make_outcome_and_grad(experiment, backward, precision)

    def value_and_grad(*args: Any, **named: Any) -> tuple[tuple[jax.Array, dict[str, jax.Array]], Any]:
        (loss, metrics, _), gradient = outcome_and_grad(*args, **named)
        return (loss, metrics), gradient

    return value_and_grad


def make_outcome_and_grad(
    experiment: Experiment, backward: str, precision: Precision
) -> Callable[..., OutcomeAndGradient]:
    """`outcome_and_grad(params, batch, key, scale, trainable, model_state) -> (LossOutcome, gradient)`.

    Without a loss scale, it is None. Of the parameters that are not `trainable` (one flag for each leaf; None trains
    all) the gradient is zero, and nothing is computed for it.
    """
    outcome, differentiated = outcome_in_precision(experiment, precision), value_and_grad_by(backward)

    def outcome_and_grad(
        params: Any,
        batch: Any,
        key: jax.Array,
        scale: jax.Array | None = None,
        trainable: Any = None,
        model_state: Any = None,
    ) -> OutcomeAndGradient:
        def scaled_loss(trained: Any, frozen: Any, model_state: Any, batch: Any, key: Any, scale: Any) -> Any:
            found = outcome(joined(trained, frozen, params, trainable), batch, key, model_state)
            value = found.value
            return (value if scale is None else value * scale.astype(value.dtype)), found

        def of_trained(trained: Any, model_state: Any, batch: Any, key: jax.Array) -> OutcomeAndGradient:
            gradient_of = differentiated(scaled_loss, has_aux=True)
            (_, found), scaled = gradient_of(trained, frozen, model_state, batch, key, scale)
            return found, scaled if scale is None else jax.tree.map(lambda x: x / scale.astype(x.dtype), scaled)

        trained, frozen = divide(params, trainable)
        whole = of_trained if experiment.accumulate == 1 else accumulated(of_trained, experiment.accumulate)
        found, gradient = whole(trained, model_state, batch, key)
        return found, joined(gradient, map(jnp.zeros_like, frozen), params, trainable)

    return outcome_and_grad


def accumulated(outcome_and_grad: Callable[..., OutcomeAndGradient], count: int) -> Callable[..., OutcomeAndGradient]:
    """The mean of `outcome_and_grad(params, model_state, batch, key)` over `count` microbatches: one at a time is in
    memory, and each begins with the model state that the one before it left.

    If the loss is a mean over examples, this is the gradient of the whole batch. If it is a mean over something of
    which microbatches have different numbers (tokens that count, say), each of them counts by its weight, a number
    among its metrics: gradient, loss and metrics are then those of the whole batch as well, and the weight is the sum.

    Sums are kept in float32 at least, those of the metrics too. Each microbatch has its own key.
    """

    def mean_gradient(params: Any, model_state: Any, batch: Any, key: jax.Array) -> OutcomeAndGradient:
        microbatches, whole = split_batch(batch, count)

        def add(carry: tuple[Any, Any], microbatch: tuple[Any, jax.Array]) -> tuple[Any, Any]:
            (total, state), (arrays, index) = carry, microbatch
            found, part = outcome_and_grad(params, state, whole(arrays), jax.random.fold_in(key, index))
            weight = found.metrics.get(WEIGHT)
            total = jax.tree.map(lambda t, p: t + _weighted(p.astype(t.dtype), weight), total, part)
            return (total, found.model_state), (found.value, found.metrics)

        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=trees.sum_dtype(leaf)), params)
        steps = (microbatches, jnp.arange(count))
        (total, model_state), (losses, metrics) = lax.scan(add, (zeros, model_state), steps)
        weights = metrics.get(WEIGHT)
        divisor = count if weights is None else jnp.sum(weights)
        gradient = jax.tree.map(lambda t, p: _divided(t, divisor).astype(p.dtype), total, params)
        loss, metrics = jax.tree.map(lambda values: _mean(values, weights), (losses, metrics))
        return LossOutcome(loss, metrics if weights is None else metrics | {WEIGHT: divisor}, model_state), gradient

    return mean_gradient


def _weighted(values: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Values times a weight; a weight of zero takes them out, for the mean of nothing is often NaN."""
    return values if weight is None else jnp.where(weight != 0, values * weight.astype(values.dtype), 0)


def _divided(total: jax.Array, divisor: Any) -> jax.Array:
    return total / (divisor if isinstance(divisor, int) else divisor.astype(total.dtype))


def _mean(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    """The (weighted) mean in float32 at least, in the values' own dtype if they are floating."""
    wide = values.astype(trees.accumulation_dtype(values))
    mean = jnp.mean(wide) if weights is None else _divided(jnp.sum(_weighted(wide, weights)), jnp.sum(weights))
    return mean.astype(values.dtype) if jnp.issubdtype(values.dtype, jnp.floating) else mean


def first_microbatch(batch: Any, count: int) -> Any:
    """The first of a batch's microbatches; raises ExperimentError as `split_batch`."""
    arrays, whole = split_batch(batch, count)
    return whole([array[0] for array in arrays])


def split_batch(batch: Any, count: int) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The batch's arrays with a new first axis of microbatches, and how one microbatch becomes a batch again.

    Microbatch i has the examples i, i + count, i + 2 count, ...: where a batch lies split over devices, so does each
    microbatch, and nothing moves. Scalars belong to every microbatch.

    Raises:
      ExperimentError: the arrays' first axes differ, or `count` does not divide them.
    """
    leaves, structure = jax.tree.flatten(batch)
    is_array = [np.ndim(leaf) > 0 for leaf in leaves]
    sizes = {path: np.shape(leaf)[0] for path, leaf in trees.leaves_with_paths(batch) if np.ndim(leaf)}
    wrong = {path: size for path, size in sizes.items() if size % count or size != max(sizes.values())}
    if wrong or not sizes:
        found = ", ".join(f"{path or 'batch'} has {size}" for path, size in sizes.items()) or "there are only scalars"
        raise ExperimentError(
            f"accumulate={count} splits the first axis of every array of a batch into {count} equal parts, so all must "
            f"have the same multiple of {count} examples; but {found}."
        )

    def split(leaf: Any) -> jax.Array:
        rows = jnp.reshape(leaf, (len(leaf) // count, count, *np.shape(leaf)[1:]))
        return jnp.swapaxes(rows, 0, 1)

    def whole(arrays: list[jax.Array]) -> Any:
        given = iter(arrays)
        return jax.tree.unflatten(structure, [next(given) if a else x for a, x in zip(is_array, leaves, strict=True)])

    return [split(leaf) for leaf, a in zip(leaves, is_array, strict=True) if a], whole
