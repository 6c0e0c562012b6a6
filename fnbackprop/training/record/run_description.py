"""`run.json`: what a run is and how it ended, beside its metrics."""

import dataclasses
import datetime
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from fnbackprop import trees
from fnbackprop.experiment import Experiment
from fnbackprop.version import __version__

from ..checkpoints.manifest import read_json, write_json
from ..hooks import Hook
from ..step.state import TrainState
from ..step.step_metrics import layer_names
from .metrics import METRICS_FILE
from .run_log import Recorder
from .run_report import REPORT_FILE, write_report
from .throughput import amount_of

RUN_FILE = "run.json"
PACKAGES = ("jax", "jaxlib", "optax", "numpy")
LAYER_POINTS = 200  # how many steps of a run keep the gradient norm of every layer


class Documenting(Hook):
    """Writes `run.json` when the run begins and again when it ends, then `report.html`.

    Args:
      experiment: what is trained.
      folder: the run's; None writes nothing.
      recorder: is told the layers' names, and what a batch holds.
      state: the one the run begins with.
      stop: the step it ends at.
      options: those of `train` that the numbers depend on.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path | None,
        recorder: Recorder,
        state: TrainState,
        stop: int,
        options: dict[str, Any],
    ):
        self._folder, self._recorder, self._began = folder, recorder, time.monotonic()
        recorder.name_layers(layer_names(state.params), every=max(1, experiment.steps // LAYER_POINTS))
        if folder is None:
            return
        self._facts = facts(experiment, state, stop, options)
        if int(state.step) and (folder / RUN_FILE).is_file():  # the same run, going on
            before = read_run(folder)
            self._facts |= {name: before[name] for name in ("began", "seconds") if name in before}
        self._earlier = self._facts["seconds"]
        self._write(self._facts)

    def before_step(self, step: int, state: TrainState, batch: Any) -> None:
        if self._recorder.amount is None:
            self._recorder.amount = amount_of(batch)

    def after_step(self, updates: int, state: TrainState) -> None:
        if self._folder is not None:
            self._facts["step"] = updates

    def close(self, error: BaseException | None) -> None:
        if self._folder is None:
            return
        seconds = self._earlier + time.monotonic() - self._began
        amount = self._recorder.amount
        ended = {"status": "finished" if error is None else "stopped", "seconds": round(seconds, 3)}
        ended["batch"] = None if amount is None else amount._asdict()
        if error is not None:
            ended["error"] = f"{type(error).__name__}: {error}".rstrip(": ")
        self._write(self._facts | ended)
        try:
            write_report([self._folder], self._folder / REPORT_FILE)
        except (OSError, ValueError) as problem:
            self._recorder.say(f"{self._folder / REPORT_FILE} cannot be written: {problem}")

    def _write(self, facts: dict[str, Any]) -> None:
        """Write `run.json`; a full disk is no reason to lose the run."""
        try:
            write_json(self._folder / RUN_FILE, facts)
        except OSError as error:
            self._recorder.say(f"{self._folder / RUN_FILE} cannot be written: {error}")


def facts(experiment: Experiment, state: TrainState, stop: int, options: dict[str, Any]) -> dict[str, Any]:
    """What is known about a run when it begins, ready for JSON."""
    config = experiment.config
    leaves = jax.tree.leaves(state.params)
    return {
        "name": experiment.name,
        "status": "running",
        "step": int(state.step),
        "stop": stop,
        "seed": experiment.seed,
        **options,
        "config": {} if config is None else plain(dataclasses.asdict(config)),
        "parameters": sum(leaf.size for leaf in leaves),
        "layers": len(trees.layers(state.params)),
        "command": command(),
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "process": {"id": os.getpid(), "host": socket.gethostname()},
        "environment": environment(),
    }


def environment() -> dict[str, str]:
    """Versions, devices and the commit of the working directory."""
    devices = jax.devices()
    found = {
        "fnbackprop": __version__,
        **{name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processes": str(jax.process_count()),
        "commit": _commit(),
    }
    return {name: value for name, value in found.items() if value}


def command() -> str:
    """The command line that this process was started with."""
    program = Path(sys.argv[0])
    start = [program.name] if program.suffix != ".py" else ["python", sys.argv[0]]
    return shlex.join([*start, *sys.argv[1:]])


def plain(value: Any) -> Any:
    """A config's value as JSON has it."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def read_run(folder: Path) -> dict[str, Any]:
    """What `run.json` says; of a run without one, its name alone. "killed" if the process that ran it is gone."""
    try:
        found = read_json(folder / RUN_FILE)
    except (FileNotFoundError, ValueError):
        return {"name": folder.name, "status": "unknown"}
    return found | {"status": "killed"} if found["status"] == "running" and not _lives(found["process"]) else found


def find_runs(directory: Path) -> list[Path]:
    """The folders of all runs below a directory, sorted."""
    return sorted({path.parent for name in (RUN_FILE, METRICS_FILE) for path in directory.rglob(name)})


def _lives(process: dict[str, Any]) -> bool:
    """Whether a process is there; one on another machine is taken to be."""
    if process["host"] != socket.gethostname():
        return True
    try:
        os.kill(process["id"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit of the working directory, with "+" if files have changed since; "" where there is none."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
