"""The metrics of a run for TensorBoard; needs the `tensorboard` extra."""

import math
from collections.abc import Iterable

from fnbackprop.extras import needed_for

from ..run_folder import MetricsRow, RunFolder


class TensorBoard:
    """Writes metrics below the run's folder: `tensorboard --logdir runs` shows all runs.

    Args:
      folder: the run's.
      start: the first step of the run; what an interrupted run wrote after it is not shown.

    Raises:
      MissingExtra: tensorboardX is not installed.
    """

    def __init__(self, folder: RunFolder, start: int):
        with needed_for("tensorboard=True"):
            from tensorboardX import SummaryWriter
        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=start or None)

    def write(self, rows: Iterable[MetricsRow]) -> None:
        for row in rows:
            for name, value in row.items():
                if name != "step" and math.isfinite(value):
                    self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()
