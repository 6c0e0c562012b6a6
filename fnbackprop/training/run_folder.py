"""The folder of a run, `runs/<name>/`: the name of every file in it, and how it is read."""

import dataclasses
import glob
import json
import math
import os
import re
import socket
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fnbackprop.experiment import ExperimentError

METRICS_FILE = "metrics.jsonl"
DESCRIPTION_FILE = "run.json"

MetricsRow = dict[str, Any]
"""One line of `metrics.jsonl`.

Of a step: "step", "loss", "gradient_norm", "update_ratio" (the size of the update relative to that of the parameters),
"learning_rate" (that the optimizer has used, where its update ends in a product with one), the experiment's own metrics
and, for some steps, "gradient_norm/<layer>". Of an evaluation: "step", the number of updates made before it, and
"evaluate/<name>".
"""

Records = tuple[list[MetricsRow], int]
"""What a file of rows holds, and how many of its lines are no records."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where each file of a run is.

    Files:
      metrics: a line of JSON for each step and each evaluation.
      times: when steps were done, and how fast.
      description: what the run is and how it ended.
      curves, report: a picture of the metrics, and the run as a page.
      comparison: the last answer of `fb.compare`; of several updates, one for each, by its name.
      model: what is evaluated at the end of the run: the parameters (their average, if one is kept), and under
        "model_state/" the model state, by their paths, as safetensors.
      checkpoints: a folder `step_00000040/` for each checkpoint.
      media: pictures, texts and histograms of evaluations, a folder `step_00000040/` for each.
      nonfinite: the batches whose loss was not finite, `step_00000011.npz`.
      profile: what the option of this name writes.
      lock: names the process that writes here; there while it does.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def times(self) -> Path:
        return self.path / "times.jsonl"

    @property
    def description(self) -> Path:
        return self.path / DESCRIPTION_FILE

    @property
    def curves(self) -> Path:
        return self.path / "curves.svg"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def comparison_of(self, update: str = "") -> Path:
        return self.path / (f"comparison-{update}.json" if update else "comparison.json")

    def comparisons(self) -> dict[str, Path]:
        """Those that there are, by their update's name."""
        paths = sorted(self.path.glob("comparison*.json"))
        return {path.stem.removeprefix("comparison").removeprefix("-"): path for path in paths}

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def media(self) -> Path:
        return self.path / "media"

    @property
    def nonfinite(self) -> Path:
        return self.path / "nonfinite"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def is_bare(self) -> bool:
        """Whether it holds no step, and nothing but what every run and its loggers write before the first."""
        own = {self.description, self.metrics, self.times, self.report, self.lock, self.path / "metrics.csv"}
        files = {path for path in self.path.rglob("*") if path.is_file()}
        events = {path for path in files if path.is_relative_to(self.path / "tensorboard")}
        return files <= own | events and not (self.metrics.is_file() and self.metrics.stat().st_size)

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint made after this number of updates."""
        return self.checkpoints / step_name(step)

    def nonfinite_batch(self, step: int) -> Path:
        return self.nonfinite / f"{step_name(step)}.npz"

    def read_metrics(self) -> list[MetricsRow]:
        """The run's metrics; none if it has no file of them. Lines that are no records are left out."""
        return self.read_records()[0]

    def read_records(self) -> Records:
        """The run's metrics, and how many lines of their file are no records."""
        return read_rows(self.metrics) if self.metrics.is_file() else ([], 0)

    def read_description(self) -> dict[str, Any]:
        """What `run.json` says; without one, the name alone. "killed" if the process that ran it is gone."""
        unknown = {"name": self.name, "status": "unknown"}
        try:
            found = unknown | read_json(self.description)
            gone = found["status"] == "running" and not is_alive(found["process"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return unknown
        return found | {"status": "killed"} if gone else found


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config at one level.

    >>> flat({"steps": 3, "optimizer": {"name": "lion"}})
    {'steps': 3, 'optimizer.name': 'lion'}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def step_name(step: int) -> str:
    """The name of what belongs to a step, so that names sort as the steps do."""
    return f"step_{step:08}"


def has_step(path: Path) -> bool:
    """Whether the name of a file or folder holds a step."""
    return path.name.startswith("step_") and path.name[5:].removesuffix(".npz").isdecimal()


def step_of(path: Path) -> int:
    """The step in the name of a file or folder that `has_step`."""
    return int(path.name[5:].removesuffix(".npz"))


def local_directory(directory: str | Path) -> Path:
    """The directory of runs as a path; raises ExperimentError for the address of a bucket."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(directory)):
        raise ExperimentError(
            f"directory {directory} is the address of a bucket, but runs are written to file systems of this machine: "
            "mount the bucket (gcsfuse, s3fs ...), or copy the finished run."
        )
    return Path(directory)


def runs_of(directory: str | Path, name: str) -> dict[int, RunFolder]:
    """The runs of one name by their numbers, in order: `<name>` is the first, then `<name>-2`, `<name>-3` ..."""
    place = local_directory(directory)
    paths = {1: place / name} if (place / name).is_dir() else {}
    for path in place.glob(f"{glob.escape(name)}-*"):
        number = path.name.removeprefix(f"{name}-")
        if re.fullmatch("[2-9]|[1-9][0-9]+", number) and path.is_dir():
            paths[int(number)] = path
    folders = {number: RunFolder(path) for number, path in sorted(paths.items())}
    return {number: folder for number, folder in folders.items() if _is_named(folder, name)}


def runs_at(directory: str | Path, name: str) -> list[RunFolder]:
    """The run that the directory itself is the folder of; else the runs of one name in it, the newest last."""
    own = RunFolder(local_directory(directory))
    if own.description.is_file():
        return [own]
    return list(runs_of(directory, name).values())


def numbered(directory: str | Path, name: str, number: int) -> RunFolder:
    """The folder of the run of this name and number, there or not."""
    return RunFolder(local_directory(directory) / (name if number == 1 else f"{name}-{number}"))


def _is_named(folder: RunFolder, name: str) -> bool:
    """Whether a run is of an experiment of this name: another one may be called `<name>-2`."""
    try:
        return read_json(folder.description).get("name", name) == name
    except (OSError, ValueError, AttributeError):
        return True


def find_runs(directory: Path) -> list[RunFolder]:
    """All runs below a directory, sorted by path."""
    paths = {path.parent for name in (DESCRIPTION_FILE, METRICS_FILE) for path in directory.rglob(name)}
    return [RunFolder(path) for path in sorted(paths)]


def read_metrics(run: str | Path) -> list[MetricsRow]:
    """The metrics of a run, from its folder `runs/<name>` or from the file itself; null is read as NaN.

    A last line that was only half written when the run was killed is left out; so is any line that is no record, with a
    warning that counts them.

    Args:
        run: the folder of a run, or its file of metrics.
    Returns:
        A dict for each record, in the order of the steps: "step", "loss", and what else the run wrote then.
    Raises:
        FileNotFoundError: there is no such run, or it has written nothing yet.
    Example:
        >>> import fnbackprop as fb, json, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     _ = pathlib.Path(run, "metrics.jsonl").write_text(json.dumps({"step": 0, "loss": 2.5}) + "\\n")
        ...     fb.read_metrics(run)
        [{'step': 0, 'loss': 2.5}]
    """
    path = Path(run)
    path = path / METRICS_FILE if path.is_dir() else path
    rows, bad = read_rows(path)
    if bad:
        warnings.warn(f"{path}: {bad} lines are no records, and are left out", stacklevel=2)
    return rows


def read_rows(path: Path) -> Records:
    """The records of a file of metrics, and how many lines are none; an unfinished last one is not counted."""
    rows, bad = [], 0
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.endswith("\n"):
                break
            try:
                row = json.loads(line)
                row["step"] = int(row["step"])
            except (ValueError, TypeError, KeyError):
                bad += 1
                continue
            if "null" in line:
                row = {name: math.nan if value is None else value for name, value in row.items()}
            rows.append(row)
    return rows, bad


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is there whole or not at all, also after a power cut."""
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def is_alive(process: dict[str, Any]) -> bool:
    """Whether a process runs; assumed of one on another machine, and on Windows, where signal 0 is Ctrl-C."""
    if process["host"] != socket.gethostname() or sys.platform == "win32":
        return True
    try:
        os.kill(process["id"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
