"""The metrics as `metrics.csv` in the run's folder: a line "step,name,value" for each number."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from .protocol import RunStart

HEAD = ["step", "name", "value"]


class CSV:
    """Writes `metrics.csv`, for spreadsheets and data frames: `frame.pivot_table("value", "step", "name")`.

    Example:
      >>> import fnbackprop as fb, pathlib, tempfile
      >>> folder, logger = pathlib.Path(tempfile.mkdtemp()), fb.loggers.CSV()
      >>> logger.start(fb.loggers.RunStart("waves", "waves", folder, 0, {}, {}))
      >>> logger.log(0, {"loss": 0.5})
      >>> logger.finish("finished")
      >>> print((folder / "metrics.csv").read_text().split())
      ['step,name,value', '0,loss,0.5']
    """

    def start(self, run: RunStart) -> None:
        path = run.written_folder("csv") / "metrics.csv"
        kept = _before(path, run.step) if run.step and path.is_file() else []
        self._file = open(path, "w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerows([HEAD, *kept])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._writer.writerows([step, name, "" if math.isnan(value) else value] for name, value in values.items())
        self._file.flush()

    def artifact(self, path: Path) -> None:
        pass

    def finish(self, status: str) -> None:
        self._file.close()


def _before(path: Path, step: int) -> list[list[str]]:
    """The lines of the steps before, and of evaluations until then."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(HEAD) and row[0].isdecimal()]
    return [row for row in rows if int(row[0]) < step + row[1].startswith("evaluate/")]
