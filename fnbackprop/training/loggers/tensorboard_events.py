"""The metrics for TensorBoard; needs the `tensorboard` extra."""

import math
from collections.abc import Mapping
from pathlib import Path

from fnbackprop.extras import needed_for

from .protocol import RunStart


class TensorBoard:
    """Writes event files to `tensorboard/` in the run's folder: `tensorboard --logdir runs` shows all runs.

    Example:
      >>> import fnbackprop as fb
      >>> loggers = [fb.loggers.TensorBoard(), fb.loggers.CSV()]  # fb.train(experiment, loggers=loggers)
      >>> [type(logger).__name__ for logger in loggers]
      ['TensorBoard', 'CSV']
    """

    def start(self, run: RunStart) -> None:
        folder = run.written_folder("tensorboard") / "tensorboard"
        with needed_for("the logger tensorboard"):
            from tensorboardX import SummaryWriter
        self._writer = SummaryWriter(str(folder), purge_step=run.step or None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def artifact(self, path: Path) -> None:
        pass

    def finish(self, status: str) -> None:
        self._writer.close()
