"""What a logger is, and what it is told of a run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fnbackprop.experiment import ExperimentError

from ..run_folder import read_json, write_json

IDENTITIES = "loggers.json"


@dataclasses.dataclass(frozen=True)
class RunStart:
    """A run that begins, or goes on.

    Attributes:
      name: the run's, with its number if there are several of the experiment.
      experiment: the experiment's name.
      folder: the run's; None if it writes nothing.
      step: the number of the first step: 0, or where the run goes on. What was logged of later steps is to be dropped.
      config: the run's options, nested.
      facts: seed, command, versions, devices ...: what `run.json` holds.

    Example:
      >>> import fnbackprop as fb
      >>> run = fb.loggers.RunStart("waves-2", "waves", folder=None, step=0, config={"width": 8}, facts={"seed": 0})
      >>> run.name, run.config["width"]
      ('waves-2', 8)
    """

    name: str
    experiment: str
    folder: Path | None
    step: int
    config: Mapping[str, Any]
    facts: Mapping[str, Any]

    def written_folder(self, logger: str) -> Path:
        """The run's folder; raises ExperimentError if it has none."""
        if self.folder is None:
            raise ExperimentError(f"the logger {logger} writes to the run's folder: give train a directory.")
        return self.folder

    def identity(self, logger: str) -> str | None:
        """The identity that a service has given this run before, if it goes on."""
        path = None if self.folder is None else self.folder / IDENTITIES
        return read_json(path).get(logger) if path is not None and self.step and path.is_file() else None

    def remember(self, logger: str, identity: str) -> None:
        """Keep the identity that a service gives this run."""
        if self.folder is not None:
            path = self.folder / IDENTITIES
            write_json(path, (read_json(path) if path.is_file() else {}) | {logger: identity})


class Logger(Protocol):
    """Takes what a run measures; called in the process that leads, from the thread that trains.

    An error of `start` ends the run, before its first step; one of another method is told, and the run goes on without
    this logger.

    Example:
      >>> import fnbackprop as fb
      >>> class Printer:
      ...     def start(self, run):
      ...         print(run.name, "begins at step", run.step)
      ...     def log(self, step, values):
      ...         print(step, sorted(values))
      ...     def artifact(self, path):
      ...         print("written:", path)
      ...     def finish(self, status):
      ...         print(status)
      >>> logger = Printer()  # fb.train(experiment, loggers=[logger])
      >>> logger.log(0, {"loss": 0.5})
      0 ['loss']
    """

    def start(self, run: RunStart) -> None:
        """The run begins."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of a step; or "evaluate/<name>", where `step` is the number of updates made before."""

    def artifact(self, path: Path) -> None:
        """A file that the run has written: its report, its curves, its model."""

    def finish(self, status: str) -> None:
        """The run has ended: "finished" or "stopped"."""
