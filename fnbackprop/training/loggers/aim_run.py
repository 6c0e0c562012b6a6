"""The run in an Aim repository; needs the `aim` extra."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from fnbackprop.extras import needed_for

from .protocol import RunStart


@dataclasses.dataclass
class Aim:
    """A run of an Aim repository, a folder `.aim` on this machine or a server; `aim up` shows it.

    Args:
      repo: the folder that holds `.aim`, or "aim://host:port"; by default the current folder.
      experiment: by default the experiment's name.

    Example:
      >>> import fnbackprop as fb
      >>> fb.loggers.Aim(repo="aim://localhost:53800")  # fb.train(experiment, loggers=[...])
      Aim(repo='aim://localhost:53800', experiment=None)
    """

    repo: str | None = None
    experiment: str | None = None

    def start(self, run: RunStart) -> None:
        with needed_for("the logger aim"):
            import aim  # pyright: ignore[reportMissingImports]
        where = {"repo": self.repo, "experiment": self.experiment or run.experiment}
        quiet = {"system_tracking_interval": None, "capture_terminal_logs": False}
        self._run = aim.Run(run.identity("aim"), **where, **quiet)
        run.remember("aim", self._run.hash)
        self._run.name = run.name
        self._run["config"], self._run["run"] = dict(run.config), dict(run.facts)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._run.track(value, name=name, step=step)

    def artifact(self, path: Path) -> None:
        pass  # Aim copies files to a store of its own, which must be named first

    def finish(self, status: str) -> None:
        self._run["status"] = status
        self._run.close()
