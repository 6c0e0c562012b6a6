"""A trial before the first step: an evaluation and a checkpoint that could not be made would cost the whole run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.balancing.layers import undoes_scales
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.experiment_checks import check_evaluation
from fnbackprop.media import divided

from .checkpoints.checkpoint import Checkpoint
from .checkpoints.writer import CheckpointWriter
from .errors import CheckpointError
from .evaluating import context_of
from .run import Run
from .run_folder import RunFolder
from .step.partial_optimizer import optimizer_of
from .step.state import TrainState, part_of


def try_optimizers(experiment: Experiment, state: TrainState) -> None:
    """Raises ExperimentError for an optimizer in which `fb.scale_by_layer` has no effect."""
    for name, part in experiment.parts.items():
        if undoes_scales(optimizer_of(part), state.params, part_of(state, name).opt_state):
            raise ExperimentError(
                "the optimizer: what follows scale_by_layer in the chain divides its factors out again, as Adam and "
                "Lion do. Let it come last: optax.chain(optax.adam(...), fb.scale_by_layer(...))."
            )


def try_evaluation(
    experiment: Experiment, state: TrainState, best: str | None = None, folder: Path | None = None
) -> None:
    """Evaluate once, and throw the result away: abstractly, which takes no longer than tracing; really, if that fails.

    Args:
      experiment: whose `evaluate` is called; there may be none.
      state: the one before the first step: its parameters (their average, if one is kept) and its model state.
      best: a metric that must be there.
      folder: the run's, for an `evaluate(params, context)`, whose context has the same state: in the abstract, its
        arrays have no values, but its step is a number.

    Raises:
      ExperimentError: it returns something else than scalars, or none of the name by which the best is chosen.
      Exception: whatever `evaluate` raises.
    """
    if experiment.evaluate is None:
        return
    context = context_of(experiment, state, folder)
    try:
        values = jax.eval_shape(
            lambda evaluated, whole: experiment.evaluate(*evaluated, *(replace(own, state=whole) for own in context)),
            state.evaluated,
            state,
        )
    except Exception:  # it needs numbers, or is broken
        values = experiment.evaluate(*state.evaluated, *context)
    check_evaluation(divided(values)[0])
    if best is not None and best not in values:
        raise ExperimentError(f"evaluate returns no {best!r} to choose the best by, but: {', '.join(values)}.")


def try_checkpoint(run: Run, folder: RunFolder, state: TrainState, data_state: Any) -> list[str]:
    """Write a checkpoint with an element in the place of each array, and remove it.

    Returns:
      a line about the room on the disk, if it will not hold two checkpoints.
    Raises:
      CheckpointError: it cannot be written.
    """
    if run.checkpoint_every == 0 or jax.process_count() > 1:
        return []
    place = RunFolder(folder.path / "trial")
    writer = CheckpointWriter(place, keep=None)
    tiny = jax.tree.map(_element, state)
    try:
        info = {"step": int(state.step), "settings": run.settings, "data": data_state, "metrics": {}}
        writer.write(tiny, info | {"metrics_bytes": 0, "batch": None})
        writer.finish()
        [written] = place.checkpoints.iterdir()
        if (problem := Checkpoint(written).damage()) is not None:
            raise CheckpointError(f"a checkpoint in {folder.path} is damaged as soon as it is written: {problem}.")
    finally:
        writer.close()
        shutil.rmtree(place.path, ignore_errors=True)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if hasattr(leaf, "nbytes"))
    free = shutil.disk_usage(folder.path).free
    if free < 2 * size:
        return [f"{folder.path}: {free / 1e9:.1f} GB are free, and a checkpoint takes {size / 1e9:.1f}: clear some"]
    return []


def _element(leaf: jax.Array) -> jax.Array:
    """An array of one element of the leaf's dtype: to take it from the leaf would be compiled for every shape."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return jnp.ravel(leaf)[:1]
    return jax.device_put(np.zeros(1, leaf.dtype))
