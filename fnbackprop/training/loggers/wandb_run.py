"""The run at Weights & Biases; needs the `wandb` extra."""

import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fnbackprop.extras import needed_for

from .protocol import RunStart


@dataclasses.dataclass
class WandB:
    """A run at Weights & Biases. Without a network: `WANDB_MODE=offline`, and `wandb sync` later.

    Args:
      project: by default the experiment's name.
      options: more arguments of `wandb.init`: entity, tags, group, mode ...

    Example:
      >>> import fnbackprop as fb
      >>> fb.loggers.WandB(project="digits", options={"tags": ["baseline"]})  # fb.train(experiment, loggers=[...])
      WandB(project='digits', options={'tags': ['baseline']})
    """

    project: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def start(self, run: RunStart) -> None:
        with needed_for("the logger wandb"):
            import wandb  # pyright: ignore[reportMissingImports]
        identity = run.identity("wandb") or secrets.token_hex(4)
        run.remember("wandb", identity)
        given: dict[str, Any] = {
            "project": self.project or run.experiment,
            "name": run.name,
            "id": identity,
            "resume": "allow",
        }
        given |= {"dir": run.folder, "config": dict(run.config)}
        self._run = wandb.init(**given | dict(self.options))
        self._run.config.update({"run": dict(run.facts)}, allow_val_change=True)
        self._run.define_metric("step", hidden=True)
        self._run.define_metric(
            "*", step_metric="step"
        )  # theirs may not go back, and an evaluation comes after its step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def artifact(self, path: Path) -> None:
        self._run.save(str(path), base_path=str(path.parent), policy="now")

    def finish(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)
