"""A trial before the first step: an evaluation and a checkpoint that could not be made would cost the whole run."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fnbackprop.balancing.layers import undoes_scales
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.experiment_checks import check_evaluation
from fnbackprop.media import divided

from .checkpoints.arrays import stored_leaves
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.writer import CheckpointWriter
from .errors import CheckpointError
from .evaluating import context_of
from .importing import CHECKPOINT, REPORT, import_ahead
from .run import Run
from .run_folder import RunFolder
from .step.partial_optimizer import optimizer_of
from .step.state import TrainState


def try_optimizers(experiment: Experiment, state: TrainState) -> None:
    """Raises ExperimentError for an optimizer in which `fb.scale_by_layer` has no effect."""
    for name, part in experiment.parts.items():
        opt_state = state.opt_state[name] if name else state.opt_state
        if undoes_scales(optimizer_of(part), state.params, opt_state):
            raise ExperimentError(
                "the optimizer: what follows scale_by_layer in the chain divides its factors out again, as Adam and "
                "Lion do. Let it come last: optax.chain(optax.adam(...), fb.scale_by_layer(...))."
            )


def try_evaluation(
    experiment: Experiment, state: TrainState, best: str | None = None, folder: Path | None = None
) -> list[str]:
    """Evaluate once, and throw the result away: abstractly, which takes no longer than tracing; really, if that fails.

    Args:
      experiment: whose `evaluate` is called; there may be none.
      state: the one before the first step: its parameters (their average, if one is kept) and its model state.
      best: a metric that must be there.
      folder: the run's, for an `evaluate(params, context)`, whose context has the same state: in the abstract, its
        arrays have no values, but its step is a number.

    Returns:
      The names of its metrics.
    Raises:
      ExperimentError: it returns something else than scalars, or none of the name by which the best is chosen.
      Exception: whatever `evaluate` raises.
    """
    if experiment.evaluate is None:
        return []
    context = context_of(experiment, state, folder)
    try:
        values = jax.eval_shape(
            lambda evaluated, whole: experiment.evaluate(*evaluated, *(replace(own, state=whole) for own in context)),
            state.evaluated,
            state,
        )
    except Exception:  # it needs numbers, or is broken
        values = experiment.evaluate(*state.evaluated, *context)
    metrics = divided(values)[0]
    check_evaluation(metrics)
    if best is not None and best not in values:
        raise ExperimentError(f"evaluate returns no {best!r} to choose the best by, but: {', '.join(values)}.")
    return list(metrics)


def try_checkpoint(run: Run, folder: RunFolder, state: TrainState, data_state: Any) -> list[str]:
    """Write a checkpoint with an element in the place of each array, and remove it.

    Args:
      run: says whether it will write any.
      folder: the run's.
      state: the one before the first step; of its arrays, the shapes and dtypes are enough.
      data_state: where the data are, as JSON.

    Returns:
      a line about the room on the disk, if it will not hold two checkpoints.
    Raises:
      CheckpointError: it cannot be written.
    """
    if not _writes_checkpoints(run):
        return []
    place = RunFolder(folder.path / "trial")
    writer = CheckpointWriter(place, keep=None)
    leaves = jax.eval_shape(stored_leaves, state)
    tiny = [jax.device_put(np.zeros(1, leaf.dtype)) for leaf in leaves]
    try:
        info = {"step": 0, "settings": run.settings, "data": data_state, "metrics": {}}
        writer.write(tiny, info | {"metrics_bytes": 0, "batch": None})
        writer.finish()
        [written] = place.checkpoints.iterdir()
        if (problem := Checkpoint(written).damage()) is not None:
            raise CheckpointError(f"a checkpoint in {folder.path} is damaged as soon as it is written: {problem}.")
    finally:
        writer.close()
        shutil.rmtree(place.path, ignore_errors=True)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    free = shutil.disk_usage(folder.path).free
    if free < 2 * size:
        return [f"{folder.path}: {free / 1e9:.1f} GB are free, and a checkpoint takes {size / 1e9:.1f}: clear some"]
    return []


def _writes_checkpoints(run: Run) -> bool:
    return run.checkpoint_every != 0 and jax.process_count() == 1


class Trial:
    """The trial of a run: what would end it at its first evaluation or checkpoint ends it before it leaves a file.

    The checkpoint is tried by a thread; a context manager, which waits for it.

    Args:
      run: may ask for no trial.
      folder: the run's; None writes nothing.
    """

    def __init__(self, run: Run, folder: RunFolder | None):
        self._run, self._folder = run, folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trial")
        self._checkpoint: Future[list[str]] | None = None
        if run.trial and folder is not None and _writes_checkpoints(run):
            import_ahead(CHECKPOINT + REPORT)  # while the step is compiled

    def __enter__(self) -> "Trial":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()

    def begin(self, state: TrainState | None, data_state: Any) -> None:
        """Begin with the checkpoint, unless that has been done.

        Args:
          state: the one before the first step, or its shapes; None if they are not known.
          data_state: where the data are then.
        """
        if self._checkpoint is None and self._run.trial and self._folder is not None and state is not None:
            self._checkpoint = self._thread.submit(try_checkpoint, self._run, self._folder, state, data_state)

    def finish(self, state: TrainState, data_state: Any, folder: Path | None) -> list[str]:
        """Try what has not been tried, and return lines about it.

        Args:
          state, data_state: before the first step.
          folder: the run's, if this process writes there.

        Raises:
          ExperimentError: as `try_optimizers` and `try_evaluation`.
          CheckpointError: as `try_checkpoint`.
        """
        if not self._run.trial:
            return []
        self.begin(state, data_state)
        try_optimizers(self._run.experiment, state)
        try_evaluation(self._run.experiment, state, self._run.best, folder)
        return [] if self._checkpoint is None else self._checkpoint.result()
