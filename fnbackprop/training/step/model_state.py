"""The state of a model beside its parameters: renewed by the loss at every step, never differentiated."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop import trees
from fnbackprop.experiment import Experiment, ExperimentError

from .moving_average import next_average
from .state import TrainState


def renewed(before: Any, after: Any) -> Any:
    """The state that a loss returned, in the dtypes of the one before: of a float32 mean, what was added to it in
    bfloat16 is no more than a part.

    Raises:
      ExperimentError: it has other leaves or shapes than the one before.
    """
    there, here = ({path: jnp.shape(x) for path, x in trees.leaves_with_paths(tree)} for tree in (before, after))
    if there != here:
        path = next(path for path in {**there, **here} if there.get(path) != here.get(path))
        was, now = (str(list(shapes[path])) if path in shapes else "absent" for shapes in (there, here))
        raise ExperimentError(
            f"the model state that loss returns must have the arrays of the one that it is given, but {path or 'it'} "
            f"was {was} and is {now}. By has_state=True, what loss returns after the scalar is the state."
        )
    return jax.tree.unflatten(
        jax.tree.structure(before), map(_as_before, jax.tree.leaves(before), jax.tree.leaves(after))
    )


def _as_before(before: Any, after: Any) -> Any:
    dtype = before.dtype
    return after if jnp.issubdtype(dtype, jax.dtypes.extended) else jnp.asarray(after).astype(dtype)


def with_model_state(experiment: Experiment, state: TrainState, model_state: Any, step: jax.Array) -> TrainState:
    """The train state with the model state that this step has led to, and with its average, if one is kept."""
    average = state.model_state_ema
    if average is not None:
        average = next_average(average, model_state, experiment.ema, step)
    return dataclasses.replace(state, model_state=model_state, model_state_ema=average)
