"""A trial before the first step: an evaluation and a checkpoint that could not be made would cost the whole run."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.experiment_checks import check_evaluation
from fnbackprop.media import divided

from .checkpoints.checkpoint import Checkpoint
from .checkpoints.writer import CheckpointWriter
from .errors import CheckpointError
from .evaluating import context_of
from .run import Run
from .run_folder import RunFolder
from .step.state import TrainState


def try_evaluation(
    experiment: Experiment, state: TrainState, best: str | None = None, folder: Path | None = None
) -> None:
    """Evaluate once, and throw the result away: abstractly, which takes no longer than tracing; really, if that fails.

    Raises:
      ExperimentError: it returns something else than scalars, or none of the name by which the best is chosen.
      Exception: whatever `evaluate` raises.
    """
    if experiment.evaluate is None:
        return
    context = context_of(experiment, state, folder)
    try:
        values = jax.eval_shape(lambda *evaluated: experiment.evaluate(*evaluated, *context), *state.evaluated)
    except Exception:  # it needs numbers, or is broken
        values = experiment.evaluate(*state.evaluated, *context)
    check_evaluation(divided(values)[0])
    if best is not None and best not in values:
        raise ExperimentError(f"evaluate returns no {best!r} to choose the best by, but: {', '.join(values)}.")


def try_checkpoint(run: Run, folder: RunFolder, state: TrainState, data_state: Any) -> str | None:
    """Write a checkpoint with an element of each array, and remove it.

    Returns:
      a line about the room on the disk, if it will not hold two checkpoints.
    Raises:
      CheckpointError: it cannot be written.
    """
    if run.checkpoint_every == 0 or jax.process_count() > 1:
        return None
    place = RunFolder(folder.path / "trial")
    writer = CheckpointWriter(place, keep=None)
    tiny = jax.tree.map(lambda leaf: jnp.ravel(leaf)[:1], state)
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
        return f"{folder.path}: {free / 1e9:.1f} GB are free, and a checkpoint takes {size / 1e9:.1f}: clear some"
    return None
