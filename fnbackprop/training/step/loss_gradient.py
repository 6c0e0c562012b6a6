"""Forward pass, loss and backward pass of a step: in its precision, with a loss scale, over microbatches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnbackprop import trees
from fnbackprop.comparing.gradient_sources import value_and_grad_by
from fnbackprop.experiment import Experiment, ExperimentError

from .mixed_precision import Precision, cast

LossAndGradient = tuple[tuple[jax.Array, dict[str, jax.Array]], Any]
ValueAndGrad = Callable[..., LossAndGradient]


def loss_in_precision(experiment: Experiment, precision: Precision) -> Callable:
    """`loss(params, batch, key) -> (loss, metrics)`, computed in one dtype of the precision and returned in another."""

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        params, batch = cast((params, batch), precision.compute)
        return cast(experiment.loss_and_metrics(params, batch, key), precision.output)

    return loss


def make_value_and_grad(experiment: Experiment, backward: str, precision: Precision) -> ValueAndGrad:
    """`value_and_grad(params, batch, key, scale) -> ((loss, metrics), gradient)`; without a loss scale, it is None."""
    loss = loss_in_precision(experiment, precision)

    def scaled_loss(params: Any, batch: Any, key: jax.Array, scale: jax.Array | None) -> Any:
        value, metrics = loss(params, batch, key)
        return (value if scale is None else value * scale.astype(value.dtype)), (value, metrics)

    scaled_value_and_grad = value_and_grad_by(backward)(scaled_loss, has_aux=True)

    def value_and_grad(params: Any, batch: Any, key: jax.Array, scale: jax.Array | None = None) -> LossAndGradient:
        (_, found), scaled = scaled_value_and_grad(params, batch, key, scale)
        return found, scaled if scale is None else jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), scaled)

    return value_and_grad if experiment.accumulate == 1 else accumulated(value_and_grad, experiment.accumulate)


def accumulated(value_and_grad: ValueAndGrad, count: int) -> ValueAndGrad:
    """The mean of `value_and_grad` over `count` microbatches, one after the other: one at a time is in memory.

    If the loss is a mean over examples, this is the gradient of the whole batch. Sums are kept in float32 at least,
    those of the metrics too. Each microbatch has its own key.
    """

    def mean_gradient(params: Any, batch: Any, key: jax.Array, scale: jax.Array | None = None) -> LossAndGradient:
        microbatches, whole = split_batch(batch, count)

        def add(total: Any, microbatch: tuple[Any, jax.Array]) -> tuple[Any, Any]:
            arrays, index = microbatch
            found, part = value_and_grad(params, whole(arrays), jax.random.fold_in(key, index), scale)
            return jax.tree.map(lambda t, p: t + p.astype(t.dtype), total, part), found

        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=trees.accumulation_dtype(leaf)), params)
        total, found = lax.scan(add, zeros, (microbatches, jnp.arange(count)))
        return jax.tree.map(_mean, found), jax.tree.map(lambda t, p: (t / count).astype(p.dtype), total, params)

    return mean_gradient


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


def _mean(values: jax.Array) -> jax.Array:
    """The mean in float32 at least, in the values' own dtype if they are floating."""
    mean = jnp.mean(values.astype(trees.accumulation_dtype(values)))
    return mean.astype(values.dtype) if jnp.issubdtype(values.dtype, jnp.floating) else mean
