"""How a run begins: anew, or from the last good checkpoint in its folder. Nothing is overwritten unasked."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from fnbackprop.experiment import Experiment, require_experiment

from ..best import BestMode, best_mode_of
from ..data.first_batch import Fingerprint
from ..errors import CheckpointError
from ..record.metrics import cut_metrics, keep_metrics
from ..run import Run
from ..run_folder import RunFolder, numbered, runs_at
from ..step.state import TrainState, initial_state
from .arrays import read_state
from .checkpoint import INFO_FILE, Checkpoint, best_checkpoint, finished_checkpoints, last_good, list_checkpoints
from .compatibility import require_same_batches, require_same_leaves, require_same_settings


def begin(
    run: Run, folder: RunFolder, state: TrainState, restore_data: Callable[[int, Any], None] | None = None
) -> "Beginning":
    """How a run begins in its folder: anew, or from its last good checkpoint.

    Args:
      run: says whether to resume or overwrite an earlier run in `folder`.
      state: the state if nothing is resumed; a checkpoint must have its structure, and is placed on devices like it.
      restore_data: called with the step and with what was saved of the data's position, if a run is resumed.

    Raises:
      CheckpointError: there are checkpoints, and none of them fits or is whole.
    """
    found = finished_checkpoints(folder)
    if run.overwrite:
        return Beginning(state, _discard(folder, found))
    if not found:
        anew = [f"{run.name}: no checkpoint to resume from: it begins anew, at step 0"] if run.resume else []
        return Beginning(state, [*_tidy(folder, []), *anew])
    good, damaged = last_good(found)
    if good is None:
        lines = "".join(f"\n  {line}" for line in damaged.values())
        raise CheckpointError(
            f"no checkpoint in {folder.path} is whole:{lines}\nTo begin anew: overwrite=True (--overwrite). "
            "Nothing was changed."
        )
    if not run.new_config:
        require_same_settings(good, run.settings)
    require_same_leaves(good, state)
    if good.step > run.stop:
        raise CheckpointError(
            f"{good.folder} is of step {good.step}, but the run is to stop at step {run.stop}. Steps are counted from "
            "the beginning of the run: ask for more (--steps). Nothing was changed."
        )
    state = read_state(good, state)
    if restore_data is not None:
        restore_data(good.step, good.info().get("data"))
    if not run.new_config and good.step < run.stop:
        require_same_batches(good, run.experiment.batch)
    notes = [*damaged.values(), f"{run.name}: going on from step {good.step}, {good.folder}"]
    saved = None if run.new_config else good.info().get("batch")
    return Beginning(state, [*notes, *_tidy(folder, list(damaged), good)], saved)


class Beginning(NamedTuple):
    """The state that a run begins with, the lines to be printed about it, and the fingerprint of its data so far."""

    state: TrainState
    notes: list[str]
    batch: Fingerprint | None = None


def load_checkpoint(
    experiment: Experiment,
    *,
    directory: str | Path = "runs",
    step: int | None = None,
    best: str | None = None,
    best_mode: BestMode | None = None,
) -> TrainState:
    """The state of a run's checkpoint, to evaluate it or to go on from it in another run (`train(state=...)`).

    Args:
      experiment: what was trained; its parameters and its optimizer give the structure.
      directory: the run's own folder; or where the runs are, for the newest of this experiment that has a checkpoint.
      step: the number of updates; None is the newest that is whole.
      best: instead, the one that is best by this metric of `evaluate`.
      best_mode: whether the highest ("max") or the lowest ("min") is best; None: what the name says, as in `train`.

    Returns:
      The TrainState, with the shapes, dtypes and placement of the experiment's own.
    Raises:
      CheckpointError: there is no such checkpoint, it is damaged, or it is of another model or optimizer.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax, tempfile
      >>> experiment = fb.Experiment(
      ...     name="line", init=lambda key: jnp.zeros(()), batch=lambda step: jnp.float32(3), steps=2,
      ...     loss=lambda w, batch, key: (w - batch) ** 2, optimizer=optax.sgd(0.25))
      >>> with tempfile.TemporaryDirectory() as runs:
      ...     state = fb.train(experiment, directory=runs, progress=False)
      ...     print(state.params == fb.load_checkpoint(experiment, directory=runs).params)
      True
    """
    require_experiment("load_checkpoint", experiment)
    chosen = choose_checkpoint(experiment.name, directory=directory, step=step, best=best, best_mode=best_mode)
    return state_of(experiment, chosen)


def choose_checkpoint(
    name: str, *, directory: str | Path, step: int | None, best: str | None, best_mode: BestMode | None
) -> Checkpoint:
    """The checkpoint that `load_checkpoint` reads, of the run of this name; raises CheckpointError as it does."""
    runs = runs_at(directory, name) or [numbered(directory, name, 1)]
    run = next((run for run in reversed(runs) if finished_checkpoints(run)), runs[-1])
    found = finished_checkpoints(run)
    wanted = [checkpoint for checkpoint in found if step in (None, checkpoint.step)]
    if best is not None:
        holder = best_checkpoint(wanted, best, best_mode_of(best, best_mode))
        wanted = [] if holder is None else [holder]
    if not wanted:
        steps = ", ".join(str(checkpoint.step) for checkpoint in found) or "none"
        which = "".join([f" of step {step}" * (step is not None), f" with the metric {best!r}" * (best is not None)])
        raise CheckpointError(f"{run.path} has no checkpoint{which}. The steps that it has: {steps}.")
    good, damaged = last_good(wanted)
    if good is None:
        raise CheckpointError(" ".join(damaged.values()))
    return good


def state_of(experiment: Experiment, checkpoint: Checkpoint) -> TrainState:
    """The state in a checkpoint that is whole; raises CheckpointError if it is of another model or optimizer."""
    with jax.ensure_compile_time_eval():  # `init` of another experiment may call this while it is traced
        state = initial_state(experiment)
        require_same_leaves(checkpoint, state)
        return read_state(checkpoint, state)


# ---------------------------------------------------------------- the folder


def _discard(run: RunFolder, found: list[Checkpoint]) -> list[str]:
    """Remove the checkpoints of an earlier run, and the batches that it kept."""
    _together("discard")
    if jax.process_index() == 0:
        for folder in (run.checkpoints, run.nonfinite, run.media):
            shutil.rmtree(folder, ignore_errors=True)
        run.model.unlink(missing_ok=True)
    _together("discarded")
    steps = ", ".join(str(checkpoint.step) for checkpoint in found)
    return [f"{run.path}: an earlier run is overwritten, with its checkpoints of step {steps}"] if found else []


def _tidy(run: RunFolder, damaged: list[Checkpoint], resumed: Checkpoint | None = None) -> list[str]:
    """Prepare the folder: set damaged checkpoints aside, remove unfinished ones, cut the metrics to the checkpoint."""
    _together("tidy")
    notes = _tidy_files(run, damaged, resumed) if jax.process_index() == 0 else []
    _together("tidied")
    return notes


def _tidy_files(run: RunFolder, damaged: list[Checkpoint], resumed: Checkpoint | None) -> list[str]:
    notes = []
    if resumed is None:
        shutil.rmtree(run.nonfinite, ignore_errors=True)
    for checkpoint in damaged:
        _set_aside(checkpoint)
    for checkpoint in list_checkpoints(run):
        if checkpoint.finished:
            continue
        if (checkpoint.folder / INFO_FILE).exists():  # only its manifest is missing, which may have been lost
            notes.append(f"the checkpoint {checkpoint.folder} has no manifest: set aside as {_set_aside(checkpoint)}")
        else:
            notes.append(f"the checkpoint {checkpoint.folder} was not finished: removed")
            checkpoint.remove()
    if resumed is None:
        cut = keep_metrics(run.metrics)
    else:
        cut = cut_metrics(run.metrics, resumed.info()["metrics_bytes"])
    return notes if cut is None else [*notes, cut]


def _set_aside(checkpoint: Checkpoint) -> str:
    """Rename a checkpoint's folder so that it does not count and is not overwritten; returns the name."""
    aside = checkpoint.folder.with_name(f"damaged_{checkpoint.folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.folder.rename(aside)
    return aside.name


def _together(name: str) -> None:
    """Wait for the other processes, so that none reads what another is moving."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"fnbackprop {name}")
