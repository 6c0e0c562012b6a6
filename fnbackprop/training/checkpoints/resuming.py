"""How a run begins: anew, or from the last good checkpoint in its folder. Nothing is overwritten unasked."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from jax.experimental import multihost_utils

from fnbackprop.experiment import Experiment, ExperimentError

from ..record.metrics import METRICS_FILE, cut_metrics
from ..record.nonfinite_batch import NONFINITE_FOLDER
from ..step.mixed_precision import precision_of
from ..step.state import TrainState, initial_state
from .checkpoint import (
    CHECKPOINTS_FOLDER,
    INFO_FILE,
    Checkpoint,
    CheckpointError,
    best_checkpoint,
    describe_leaves,
    list_checkpoints,
    read_state,
)

LINES_SHOWN = 8


def settings_of(experiment: Experiment, **options: Any) -> dict[str, Any]:
    """What a run's numbers depend on, as JSON: how the experiment trains, the options of training, and its config."""
    config = {} if experiment.config is None else dataclasses.asdict(experiment.config)
    own = {name: getattr(experiment, name) for name in ("seed", "accumulate", "ema")}
    precision = dataclasses.asdict(precision_of(experiment.precision))
    return _as_json({**own, "precision": precision, **options, "config": config})


@dataclasses.dataclass(frozen=True)
class Start:
    """How a run is to begin: the options of `train` of these names."""

    resume: bool = False
    overwrite: bool = False
    new_config: bool = False

    def __post_init__(self):
        if self.resume and self.overwrite:
            raise ExperimentError("resume goes on with an earlier run and overwrite throws it away: give one of them.")


def begin(
    state: TrainState,
    run: Path,
    settings: dict[str, Any],
    start: Start,
    restore_data: Callable[[int, Any], None] | None = None,
) -> tuple[TrainState, list[str]]:
    """The state that a run begins with, and what there is to say about it.

    Args:
      state: what a run begins with that resumes nothing; a checkpoint must have its structure, and is laid out like it.
      run: the run's folder.
      settings: of `settings_of`.
      start: whether to resume or overwrite.
      restore_data: is called with the step and what was saved of the data's place, if a run is resumed.

    Raises:
      CheckpointError: there are checkpoints and neither `resume` nor `overwrite`, or none of them fits or is whole.
    """
    found = [checkpoint for checkpoint in list_checkpoints(run) if checkpoint.finished]
    if start.overwrite:
        return state, _discard(run, found)
    if not found:
        return state, _tidy(run, [])
    if not start.resume:
        raise CheckpointError(
            f"{run} has the checkpoint of a run that has come to step {found[-1].step}. To go on from there: "
            "resume=True (--resume). To throw it away: overwrite=True (--overwrite). To keep it and begin anew: "
            "another directory (--directory)."
        )
    good, damaged = last_good(found)
    if good is None:
        lines = "".join(f"\n  {line}" for line in damaged.values())
        raise CheckpointError(
            f"no checkpoint in {run} is whole:{lines}\nTo begin anew: overwrite=True (--overwrite). "
            "Nothing was changed."
        )
    _require_same(good, settings, state, start.new_config)
    state = read_state(good, state)
    if restore_data is not None:
        restore_data(good.step, good.info().get("data"))
    notes = [*damaged.values(), f"{run.name}: going on from step {good.step}, {good.folder}"]
    return state, [*notes, *_tidy(run, list(damaged), good)]


def last_good(checkpoints: list[Checkpoint]) -> tuple[Checkpoint | None, dict[Checkpoint, str]]:
    """The newest checkpoint that is whole, and what is wrong with each newer one."""
    damaged: dict[Checkpoint, str] = {}
    for checkpoint in reversed(checkpoints):
        problem = checkpoint.damage()
        if problem is None:
            return checkpoint, damaged
        damaged[checkpoint] = f"the checkpoint {checkpoint.folder} is damaged: {problem}."
    return None, damaged


def load_checkpoint(
    experiment: Experiment,
    *,
    directory: str | Path = "runs",
    step: int | None = None,
    best: str | None = None,
    best_mode: Literal["max", "min"] = "max",
) -> TrainState:
    """The state of a run's checkpoint, to evaluate it or to go on from it in another run (`train(state=...)`).

    Args:
      experiment: what was trained; its parameters and its optimizer give the structure.
      directory: the run is `<directory>/<experiment.name>`.
      step: the number of updates; None is the newest that is whole.
      best: instead, the one that is best by this metric of `evaluate`.
      best_mode: whether the highest ("max") or the lowest ("min") is best.

    Raises:
      CheckpointError: there is no such checkpoint, it is damaged, or it is of another model or optimizer.
    """
    run = Path(directory) / experiment.name
    found = [checkpoint for checkpoint in list_checkpoints(run) if checkpoint.finished]
    wanted = [checkpoint for checkpoint in found if step in (None, checkpoint.step)]
    if best is not None:
        holder = best_checkpoint(wanted, best, best_mode)
        wanted = [] if holder is None else [holder]
    if not wanted:
        steps = ", ".join(str(checkpoint.step) for checkpoint in found) or "none"
        which = "".join([f" of step {step}" * (step is not None), f" with the metric {best!r}" * (best is not None)])
        raise CheckpointError(f"{run} has no checkpoint{which}. The steps that it has: {steps}.")
    good, damaged = last_good(wanted)
    if good is None:
        raise CheckpointError(" ".join(damaged.values()))
    state = initial_state(experiment)
    require_same_leaves(good, state)
    return read_state(good, state)


# ---------------------------------------------------------------- does it fit?


def _require_same(checkpoint: Checkpoint, settings: dict[str, Any], state: TrainState, new_config: bool) -> None:
    differences = _differences(_flat(checkpoint.info()["settings"]), _flat(settings))
    if differences and not new_config:
        raise CheckpointError(
            f"{checkpoint.folder} was made with other settings:\n{differences}\nUse the same ones to resume it; or "
            "new_config=True (--new-config) to go on with those of now; or begin anew in another directory "
            "(--directory), or with overwrite=True (--overwrite). Nothing was changed."
        )
    require_same_leaves(checkpoint, state)


def require_same_leaves(checkpoint: Checkpoint, state: TrainState) -> None:
    """Raises CheckpointError if the arrays of a checkpoint have other paths, shapes or dtypes than the state's."""
    differences = _differences(checkpoint.info()["leaves"], describe_leaves(state))
    if differences:
        raise CheckpointError(
            f"{checkpoint.folder} is of another model or optimizer:\n{differences}\nMake the experiment as it was, or "
            "begin anew in another directory (--directory), or with overwrite=True (--overwrite). Nothing was changed."
        )


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Lines that name what differs, or "" if nothing does."""
    names = [name for name in {**there, **here} if there.get(name, "absent") != here.get(name, "absent")]
    lines = [f"  {name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} now" for name in names]
    more = [f"  and {len(lines) - LINES_SHOWN} more"] if len(lines) > LINES_SHOWN else []
    return "\n".join(lines[:LINES_SHOWN] + more)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the fields of the config beside the others, as one knows them from the command line."""
    others = {name: value for name, value in settings.items() if name != "config"}
    return {**others, **{f"config.{name}": value for name, value in settings["config"].items()}}


def _as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "__qualname__", None) or str(other)))


# ---------------------------------------------------------------- the folder


def _discard(run: Path, found: list[Checkpoint]) -> list[str]:
    """Remove the checkpoints of an earlier run, and its batches that were kept."""
    _together("discard")
    if jax.process_index() == 0:
        for folder in (CHECKPOINTS_FOLDER, NONFINITE_FOLDER):
            shutil.rmtree(run / folder, ignore_errors=True)
    _together("discarded")
    steps = ", ".join(str(checkpoint.step) for checkpoint in found)
    return [f"{run}: an earlier run is overwritten, with its checkpoints of step {steps}"] if found else []


def _tidy(run: Path, damaged: list[Checkpoint], resumed: Checkpoint | None = None) -> list[str]:
    """Make room for the run: set damaged checkpoints aside, drop unfinished ones, cut the metrics to the checkpoint."""
    _together("tidy")
    notes = _tidy_files(run, damaged, resumed) if jax.process_index() == 0 else []
    _together("tidied")
    return notes


def _tidy_files(run: Path, damaged: list[Checkpoint], resumed: Checkpoint | None) -> list[str]:
    notes = []
    if resumed is None:
        shutil.rmtree(run / NONFINITE_FOLDER, ignore_errors=True)
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
    cut = None if resumed is None else cut_metrics(run / METRICS_FILE, resumed.info()["metrics_bytes"])
    return notes if cut is None else [*notes, cut]


def _set_aside(checkpoint: Checkpoint) -> str:
    """Rename a checkpoint's folder so that it does not count and is not overwritten; returns the name."""
    aside = checkpoint.folder.with_name(f"damaged_{checkpoint.folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.folder.rename(aside)
    return aside.name


def _together(name: str) -> None:
    """Wait for the other processes, so that none reads what another moves."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"fnbackprop {name}")
