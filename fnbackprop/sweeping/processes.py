"""The runs of a sweep: each is a process of its own, and is resumed if it was not finished."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.run_folder import RunFolder, find_runs
from .points import Point, label

LAST_LINES = 12


@dataclass(frozen=True)
class SweptRun:
    """One point of a sweep.

    Attributes:
      point: its options.
      folder: where its run's folder is, or will be.
    """

    point: Point
    folder: Path

    @property
    def run(self) -> RunFolder | None:
        """The run, if it was begun."""
        return next(iter(find_runs(self.folder)), None) if self.folder.is_dir() else None

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self.folder / "output.txt"

    def facts(self) -> dict[str, Any]:
        """What `run.json` says; the status "waiting" if the run was not begun."""
        run = self.run
        return {"status": "waiting"} if run is None else run.read_description()

    def last_metrics(self) -> dict[str, Any]:
        """The last value of each metric."""
        run = self.run
        return {} if run is None else {name: value for row in run.read_metrics() for name, value in row.items()}


def runs_of_sweep(points: Sequence[Point], directory: Path) -> list[SweptRun]:
    """A run for each point, in a folder of its name; a point that was drawn twice has one."""
    return [SweptRun(point, directory / name) for name, point in {label(point): point for point in points}.items()]


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
        run.folder.mkdir(parents=True, exist_ok=True)
        options = [word for option, value in run.point.items() for word in (f"--{option}", value)]
        place = ["--directory", str(run.folder), "--resume"]
        command = [sys.executable, "-m", "fnbackprop", "train", file, *options, *arguments, *place]
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
