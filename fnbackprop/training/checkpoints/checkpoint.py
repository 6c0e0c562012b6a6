"""Checkpoints of a run: `runs/<name>/checkpoints/step_00000040/`, each with

state/          the arrays, by orbax-checkpoint
info.json       step, settings, versions, metrics, and the path, shape and dtype of every array
manifest.json   size and SHA-256 of every file above: written last, it makes the checkpoint count
"""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..run_folder import RunFolder, has_step, read_json, step_of
from .manifest import MANIFEST_FILE, damage, is_finished

STATE_FOLDER = "state"
INFO_FILE = "info.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One checkpoint's folder, finished or not."""

    folder: Path

    @property
    def step(self) -> int:
        """How many updates had been made."""
        return step_of(self.folder)

    @property
    def finished(self) -> bool:
        return is_finished(self.folder)

    def damage(self) -> str | None:
        """What is wrong with it, or None: every byte is checked."""
        problem = damage(self.folder)
        if problem is None and self.info()["step"] != self.step:
            return f"its folder was renamed: it is of step {self.info()['step']}"
        return problem

    def info(self) -> dict[str, Any]:
        return read_json(self.folder / INFO_FILE)

    def metric(self, name: str) -> float:
        """An evaluation's metric; NaN if there is none."""
        try:
            return float(self.info()["metrics"].get(name, math.nan))
        except (OSError, ValueError, TypeError, KeyError):
            return math.nan

    def remove(self) -> None:
        """Remove it, the manifest first: if the process is killed meanwhile, an unfinished checkpoint is left."""
        for name in (MANIFEST_FILE, INFO_FILE):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def list_checkpoints(run: RunFolder) -> list[Checkpoint]:
    """All checkpoints of a run, the oldest first, unfinished ones too."""
    folders = [path for path in run.checkpoints.glob("*") if path.is_dir() and has_step(path)]
    return sorted(map(Checkpoint, folders), key=lambda checkpoint: checkpoint.step)


def finished_checkpoints(run: RunFolder) -> list[Checkpoint]:
    return [checkpoint for checkpoint in list_checkpoints(run) if checkpoint.finished]


def best_checkpoint(checkpoints: Sequence[Checkpoint], metric: str, mode: Literal["max", "min"]) -> Checkpoint | None:
    """The one whose evaluation was the best; None if no checkpoint has this metric."""
    measured = [checkpoint for checkpoint in checkpoints if not math.isnan(checkpoint.metric(metric))]
    sign = 1 if mode == "max" else -1
    return max(measured, key=lambda checkpoint: sign * checkpoint.metric(metric), default=None)


def last_good(checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint | None, dict[Checkpoint, str]]:
    """The newest checkpoint that is whole, and what is wrong with each newer one."""
    damaged: dict[Checkpoint, str] = {}
    for checkpoint in reversed(checkpoints):
        problem = checkpoint.damage()
        if problem is None:
            return checkpoint, damaged
        damaged[checkpoint] = f"the checkpoint {checkpoint.folder} is damaged: {problem}."
    return None, damaged
