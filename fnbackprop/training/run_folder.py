"""The folder of a run, `runs/<name>/`: the name of every file in it, and how it is read."""

import dataclasses
import json
import math
import os
import socket
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
DESCRIPTION_FILE = "run.json"

MetricsRow = dict[str, Any]
"""One line of `metrics.jsonl`.

Of a step: "step", "loss", "gradient_norm", "update_ratio" (the size of the update relative to that of the parameters),
the experiment's own metrics and, for some steps, "gradient_norm/<layer>". Of an evaluation: "step", the number of
updates made before it, and "evaluate/<name>".
"""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where each file of a run is.

    Files:
      metrics: a line of JSON for each step and each evaluation.
      description: what the run is and how it ended.
      curves, report: a picture of the metrics, and the run as a page.
      comparison: the last answer of `fb.compare`.
      checkpoints: a folder `step_00000040/` for each checkpoint.
      nonfinite: the batches whose loss was not finite, `step_00000011.npz`.
      profile, tensorboard: what the options of these names write.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def description(self) -> Path:
        return self.path / DESCRIPTION_FILE

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def comparison(self) -> Path:
        return self.path / "comparison.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def nonfinite(self) -> Path:
        return self.path / "nonfinite"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint made after this number of updates."""
        return self.checkpoints / step_name(step)

    def nonfinite_batch(self, step: int) -> Path:
        return self.nonfinite / f"{step_name(step)}.npz"

    def read_metrics(self) -> list[MetricsRow]:
        """The run's metrics; none if it has no file of them."""
        return read_metrics(self.metrics) if self.metrics.is_file() else []

    def read_description(self) -> dict[str, Any]:
        """What `run.json` says; without one, the name alone. "killed" if the process that ran it is gone."""
        try:
            found = read_json(self.description)
        except (FileNotFoundError, ValueError):
            return {"name": self.name, "status": "unknown"}
        gone = found["status"] == "running" and not _is_alive(found["process"])
        return found | {"status": "killed"} if gone else found


def step_name(step: int) -> str:
    """The name of what belongs to a step, so that names sort as the steps do."""
    return f"step_{step:08}"


def has_step(path: Path) -> bool:
    """Whether the name of a file or folder holds a step."""
    return path.name.startswith("step_") and path.name[5:].removesuffix(".npz").isdecimal()


def step_of(path: Path) -> int:
    """The step in the name of a file or folder that `has_step`."""
    return int(path.name[5:].removesuffix(".npz"))


def find_runs(directory: Path) -> list[RunFolder]:
    """All runs below a directory, sorted by path."""
    paths = {path.parent for name in (DESCRIPTION_FILE, METRICS_FILE) for path in directory.rglob(name)}
    return [RunFolder(path) for path in sorted(paths)]


def read_metrics(run: str | Path) -> list[MetricsRow]:
    """The metrics of a run, from its folder `runs/<name>` or from the file itself; null is read as NaN.

    A last line that was only half written when the run was killed is left out.
    """
    path = Path(run)
    path = path / METRICS_FILE if path.is_dir() else path
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]


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


def _is_alive(process: dict[str, Any]) -> bool:
    """Whether a process is running; one on another machine is assumed to be."""
    if process["host"] != socket.gethostname():
        return True
    try:
        os.kill(process["id"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
