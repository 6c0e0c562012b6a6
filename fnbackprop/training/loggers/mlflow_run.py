"""The run at an MLflow server; needs the `mlflow` extra."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fnbackprop.extras import needed_for

from ..run_folder import flat
from .protocol import RunStart

SECONDS_BETWEEN = 2.0  # two messages to the server
MOST_AT_ONCE = 1000  # metrics in a message, as the server allows


@dataclasses.dataclass
class MLflow:
    """A run of an MLflow experiment.

    Args:
      experiment: by default the experiment's name.
      uri: of the server; by default that of `MLFLOW_TRACKING_URI`.

    Example:
      >>> import fnbackprop as fb
      >>> fb.loggers.MLflow(uri="http://localhost:5000")  # fb.train(experiment, loggers=[...])
      MLflow(experiment=None, uri='http://localhost:5000')
    """

    experiment: str | None = None
    uri: str | None = None

    def start(self, run: RunStart) -> None:
        with needed_for("the logger mlflow"):
            from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        self._client, name = MlflowClient(self.uri), self.experiment or run.experiment
        self._waiting: list[Any] = []
        self._sent_at = time.monotonic()
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        identity = run.identity("mlflow")
        if identity is None:
            identity = self._client.create_run(experiment, run_name=run.name).info.run_id
            for path, value in flat(run.config).items():
                self._client.log_param(identity, path, value)
            run.remember("mlflow", identity)
        self._id = identity
        self._client.update_run(identity, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(1000 * time.time())
        self._waiting += [Metric(name, float(value), now, step) for name, value in values.items()]
        if time.monotonic() - self._sent_at > SECONDS_BETWEEN or len(self._waiting) >= MOST_AT_ONCE:
            self._send()

    def artifact(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def finish(self, status: str) -> None:
        self._send()
        self._client.set_terminated(self._id, "FINISHED" if status == "finished" else "FAILED")

    def _send(self) -> None:
        while self._waiting:
            part, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            self._client.log_batch(self._id, metrics=part)
        self._sent_at = time.monotonic()
