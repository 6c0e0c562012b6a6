"""The time of a run: `times.jsonl`, a line for each time that metrics have come from the device.

It stands beside the metrics, which are a function of (seed, step) alone and so the same to the byte in every run.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from ..run_folder import MetricsRow, RunFolder, read_rows
from .curve_drawing import curves_svg
from .metrics import MetricsFile
from .throughput import Amount


class Times:
    """Writes when steps were done: {"step", "seconds" since the run began, "tokens_per_second"}.

    A run that goes on counts from where it was.

    Args:
      folder: the run's; None writes nothing.
      start: the first step.
    """

    def __init__(self, folder: RunFolder | None, start: int, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        rows = [row for row in read_times(folder) if row["step"] < start] if folder is not None and start else []
        self._began = clock() - (rows[-1]["seconds"] if rows else 0.0)
        self._last = start, clock()
        self._file = None if folder is None else MetricsFile(folder.times)
        self._write(rows)

    def row(self, step: int, amount: Amount | None) -> MetricsRow:
        """Note that this step is done; returns the line."""
        now, done = self._clock(), step + 1
        (before, then), self._last = self._last, (done, now)
        count, unit = amount or Amount(1, "steps")
        speed = (done - before) * count / max(now - then, 1e-9)
        row = {"step": step, "seconds": round(now - self._began, 3), f"{unit}_per_second": float(f"{speed:.6g}")}
        self._write([row])
        return row

    def _write(self, rows: Sequence[MetricsRow]) -> None:
        if self._file is not None:
            self._file.write(rows)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_times(folder: RunFolder) -> list[MetricsRow]:
    """The lines of a run's `times.jsonl`; none if it has no such file."""
    return read_rows(folder.times)[0] if folder.times.is_file() else []


def speed_curves(times: Mapping[str, Sequence[MetricsRow]]) -> list[str]:
    """A section of a report: the speed of each run, by its label, from the lines of its `times.jsonl`."""
    timed = {label if len(times) > 1 else "": rows for label, rows in times.items() if len(rows) > 1}
    names = dict.fromkeys(name for rows in timed.values() for name in rows[0] if name.endswith("_per_second"))
    panels = [f"<div>{curves_svg(timed, name, name.replace('_', ' '))}</div>" for name in names]
    return ["<h2>Speed</h2>", '<div class="curves">', *panels, "</div>"] if panels else []
