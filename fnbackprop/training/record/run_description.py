"""The description of a run, `run.json`: what it is, how it was started and how it ended."""

import dataclasses
import datetime
import enum
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
from fnbackprop.version import __version__

from ..loggers.protocol import RunStart
from ..run import Run
from ..run_folder import RunFolder, write_json
from ..step.state import TrainState
from .run_log import RunLog
from .run_report import write_run_report

PACKAGES = ("jax", "jaxlib", "optax", "numpy")


class RunDescription:
    """Writes `run.json` when the run begins and again when it ends, then `report.html`.

    Args:
      run: what is described.
      folder: where; None writes nothing.
      log: reports what cannot be written.
      state: the one the run begins with.

    Attributes:
      step: the number of updates made, kept up to date by the loop.
      stopped_by: why the run has ended before its last step, though well.
    """

    def __init__(self, run: Run, folder: RunFolder | None, log: RunLog, state: TrainState):
        self._folder, self._log, self._began = folder, log, time.monotonic()
        self.step, self.stopped_by = int(state.step), ""
        self._facts = describe_run(run, state)
        if folder is None:
            return
        if self.step and folder.description.is_file():  # the same run, going on
            before = folder.read_description()
            self._facts |= {name: before[name] for name in ("began", "seconds") if name in before}
        self._write(self._facts)

    def run_start(self) -> RunStart:
        """What loggers are told of the run."""
        name, folder = self._facts["name"], self._folder
        own = {name: self._facts[name] for name in ("seed", "backward", "command", "environment", "parameters")}
        label = name if folder is None else folder.name
        return RunStart(label, name, folder and folder.path, self.step, self._facts["config"], own)

    def close(self, error: BaseException | None) -> None:
        if self._folder is None:
            return
        seconds, amount = self._facts["seconds"] + time.monotonic() - self._began, self._log.amount
        ended = {"step": self.step, "status": "finished" if error is None else "stopped", "seconds": round(seconds, 3)}
        ended["batch"] = None if amount is None else amount._asdict()
        if self.stopped_by:
            ended["stopped_by"] = self.stopped_by
        if error is not None:
            ended["error"] = f"{type(error).__name__}: {error}".rstrip(": ")
        self._write(self._facts | ended)
        try:
            write_run_report([self._folder], self._folder.report, [self._log.records(self._folder)])
        except (OSError, ValueError) as problem:
            self._log.say(f"{self._folder.report} cannot be written: {problem}")

    def _write(self, facts: dict[str, Any]) -> None:
        """Write `run.json`; a full disk is no reason to lose the run."""
        try:
            write_json(self._folder.description, facts)
        except OSError as error:
            self._log.say(f"{self._folder.description} cannot be written: {error}")


def describe_run(run: Run, state: TrainState) -> dict[str, Any]:
    """What is known about a run when it begins, ready for JSON."""
    experiment, config = run.experiment, run.experiment.config
    leaves = jax.tree.leaves(state.params)
    return {
        "name": run.name,
        "status": "running",
        "step": int(state.step),
        "stop": run.stop,
        "seed": experiment.seed,
        "backward": run.backward,
        "config": {} if config is None else plain(dataclasses.asdict(config)),
        "parameters": sum(leaf.size for leaf in leaves),
        "layers": len(trees.layers(state.params)),
        "command": command(),
        "file": None if config is None else source_file(type(config)),
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


def source_file(kind: type) -> str | None:
    """The file that a class was defined in; None of one that was defined nowhere, in a notebook for instance."""
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return None if path is None else str(Path(path).resolve())


def plain(value: Any) -> Any:
    """A config's value as JSON has it."""
    if isinstance(value, enum.Enum):
        return value.name  # as it is typed
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


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
