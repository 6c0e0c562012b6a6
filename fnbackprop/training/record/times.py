"""The time of a run: `times.jsonl`, a line for each time that metrics have come from the device.

It stands beside the metrics, which are a function of (seed, step) alone and so the same to the byte in every run.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..run_folder import MetricsRow, RunFolder, read_rows
from .metrics import MetricsFile
from .plots import curves_svg
from .throughput import Amount

SHOWN = ("loss", "evaluate/")  # metrics, by the beginnings of their names
MINUTES_FROM = 600.0  # seconds; a shorter run has an axis in seconds


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


def time_curves(metrics: Mapping[str, Sequence[MetricsRow]], folders: Sequence[RunFolder], words: Any) -> list[str]:
    """A section of a report: losses and evaluations over time instead of steps, and the speed.

    Args:
      metrics: of each run by its label.
      folders: of the runs, in this order.
      words: from a metric's name to its label.
    """
    times = {label: read_times(folder) for label, folder in zip(metrics, folders, strict=True)}
    timed = {label: rows for label, rows in times.items() if len(rows) > 1}
    if not timed:
        return []
    longest = max(rows[-1]["seconds"] for rows in timed.values())
    unit, scale = ("minutes", 60.0) if longest >= MINUTES_FROM else ("seconds", 1.0)
    over = {label: _at_times(metrics[label], rows, scale) for label, rows in timed.items()}
    names = dict.fromkeys(name for rows in over.values() for row in rows for name in row if name.startswith(SHOWN))
    shown = [name for name in names if max(sum(name in row for row in rows) for rows in over.values()) > 1]
    named = len(metrics) > 1
    panels = [curves_svg({label if named else "": x for label, x in over.items()}, n, words(n), unit) for n in shown]
    speeds = dict.fromkeys(name for rows in timed.values() for name in rows[0] if name.endswith("_per_second"))
    speed = {label if named else "": rows for label, rows in timed.items()}
    panels += [curves_svg(speed, name, words(name)) for name in speeds]
    return ["<h2>Over time</h2>", '<div class="curves">', *(f"<div>{panel}</div>" for panel in panels), "</div>"]


def _at_times(rows: Sequence[MetricsRow], times: Sequence[MetricsRow], scale: float) -> list[dict[str, Any]]:
    """The rows with the time at which a step was done in the place of its number."""
    known = np.array([[row["step"], row["seconds"] / scale] for row in times])
    return [{**row, "step": float(np.interp(row["step"], known[:, 0], known[:, 1]))} for row in rows]
