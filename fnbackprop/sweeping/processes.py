"""The runs of a sweep: each is a process of its own, and is resumed if it was not finished."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..training.checkpoints.checkpoint import finished_checkpoints
from ..training.run_folder import RunFolder, find_runs, read_json, write_json
from ..writing import writing
from .points import Point, label

LAST_LINES = 12


@dataclass(frozen=True)
class SweptRun:
    """One point of a sweep.

    Attributes:
      point: its options.
      folder: where its run's folder is, or will be.
      settings: all that its result depends on.
    """

    point: Point
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def run(self) -> RunFolder | None:
        """The run, if it was begun."""
        return next(iter(find_runs(self.folder)), None) if self.folder.is_dir() else None

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self.folder / "output.txt"

    def facts(self) -> dict[str, Any]:
        """What `run.json` says; without one, the status is "failed" if the process was started, else "waiting"."""
        run = self.run
        if run is None:
            return {"status": "failed" if self.log.is_file() else "waiting"}
        return run.read_description()

    def holds_something(self) -> bool:
        """Whether the run is finished, or has a checkpoint to go on from."""
        run = self.run
        return run is not None and (self.facts()["status"] == "finished" or bool(finished_checkpoints(run)))

    def kept_settings(self) -> dict[str, Any]:
        """With what it was begun; nothing if that is not known."""
        try:
            return read_json(self._kept)
        except (OSError, ValueError):
            return {}

    def keep_settings(self) -> None:
        with writing(self._kept):
            write_json(self._kept, self.settings)

    @property
    def words(self) -> list[str]:
        """Its options as they are typed."""
        return [word for option, value in self.point.items() for word in (f"--{option}", value)]

    @property
    def _kept(self) -> Path:
        return self.folder / "settings.json"

    def last_metrics(self) -> dict[str, Any]:
        """The last value of each metric."""
        run = self.run
        return {} if run is None else {name: value for row in run.read_metrics() for name, value in row.items()}


def runs_of_sweep(
    points: Sequence[Point], directory: Path, settings_of: Callable[[list[str]], dict[str, Any]]
) -> list[SweptRun]:
    """A run for each point, in a folder of its name; a point that was drawn twice has one. settings_of: of the words
    of a point's options."""
    named = {label(point): SweptRun(point, directory / label(point)) for point in points}
    return [replace(run, settings=settings_of(run.words)) for run in named.values()]


def train_all(
    runs: Sequence[SweptRun], file: str, arguments: Sequence[str], parallel: int, say: Callable[[str], None]
) -> bool:
    """Train those that are not finished, so many at a time; returns whether all are finished then.

    Ctrl-C reaches the processes too: each saves, and the same command goes on with them.
    """

    def train(run: SweptRun) -> bool:
        if run.facts()["status"] == "finished":
            say(f"{run.folder.name}: finished before")
            return True
        run.keep_settings()
        place = ["--directory", str(run.folder), "--resume"]
        command = [sys.executable, "-m", "fnbackprop", "train", file, *run.words, *arguments, *place]
        with open(run.log, "a", encoding="utf-8") as output:
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        if status:
            lines = run.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
            say("\n  ".join([f"{run.folder.name}: exit status {status}; the end of {run.log}:", *lines]))
        else:
            say(f"{run.folder.name}: finished")
        return status == 0

    threads = ThreadPoolExecutor(parallel)
    try:
        return all(list(threads.map(train, runs)))
    finally:
        threads.shutdown(cancel_futures=True)  # after Ctrl-C, none is begun
