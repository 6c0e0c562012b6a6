"""The metrics of a run for TensorBoard, by the `tensorboard` extra."""

import math
from collections.abc import Iterable
from pathlib import Path

from fnbackprop.experiment import ExperimentError

from .metrics import Record

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoard:
    """Writes records below the run's folder: `tensorboard --logdir runs` shows all runs.

    Args:
      folder: the run's.
      start: the step the run begins with; what an interrupted run wrote after it is not shown.

    Raises:
      ExperimentError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, start: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ExperimentError("tensorboard needs tensorboardX: pip install 'fnbackprop[tensorboard]'") from None
        self._writer = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=start or None)

    def write(self, records: Iterable[Record]) -> None:
        for record in records:
            for name, value in record.items():
                if name != "step" and math.isfinite(value):
                    self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()
