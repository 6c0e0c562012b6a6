"""Metrics: fetched from the device many steps at a time, and written as lines of JSON."""

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..run_folder import MetricsRow
from ..step.step_metrics import LayerNorms

MOST_AT_ONCE = 32  # steps


class MetricBuffer:
    """Metrics of steps that the device may still be computing, fetched without stalling it.

    The newest `in_flight` steps are never waited for, so that the device always has work queued. Older ones are, so
    that the host does not run ahead and fill the memory with batches; short steps are waited for many at a time, since
    each wait costs something. Where the host is slower, finished steps are fetched every `interval` seconds.
    """

    def __init__(self, in_flight: int = 2, interval: float = 0.25, clock: Callable[[], float] = time.monotonic):
        self._in_flight, self._interval, self._clock = in_flight, interval, clock
        self._at_once = 1  # how many steps to wait for together: about those of `interval` seconds
        self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self._fetched_at = -math.inf

    def add(self, step: int, metrics: dict[str, jax.Array]) -> list[MetricsRow]:
        """Add the metrics of a step; returns those of the steps that are finished, which may be none."""
        self._waiting.append((step, metrics))
        count = max(len(self._waiting) - self._in_flight, 0)
        if count < self._at_once and self._clock() - self._fetched_at < self._interval:
            return []
        if count:
            jax.block_until_ready(self._waiting[count - 1][1])
        count += sum(1 for _ in itertools.takewhile(_is_finished, self._waiting[count:]))
        if not count:
            return []
        seconds = self._clock() - self._fetched_at
        fitting = count * self._interval / seconds if seconds > 0 else MOST_AT_ONCE
        self._at_once = int(min(max(fitting, 1), MOST_AT_ONCE))
        return self._fetch(count)

    def rest(self) -> list[MetricsRow]:
        """Wait for all steps that are left, and return their metrics."""
        return self._fetch(len(self._waiting))

    def _fetch(self, count: int) -> list[MetricsRow]:
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._fetched_at = self._clock()
        rows = [metrics for _, metrics in taken]
        if jax.default_backend() != "cpu":  # all are copied at once, which takes long on the host
            rows = jax.device_get(rows)
        return [_row(step, as_scalars(metrics)) for (step, _), metrics in zip(taken, rows, strict=True)]


def _is_finished(waiting: tuple[int, dict[str, Any]]) -> bool:
    """Whether the device has finished a step; without jit, a metric may be a Python number."""
    return all(value.is_ready() for value in waiting[1].values() if hasattr(value, "is_ready"))


def _row(step: int, metrics: dict[str, Any]) -> MetricsRow:
    """The metrics that every step has come first: a compiled step returns all in alphabetical order."""
    standard = ("loss", "gradient_norm", "update_ratio", "learning_rate")
    first = {name: metrics[name] for name in standard if name in metrics}
    return {"step": step, **first, **metrics}


def as_scalars(metrics: dict[str, Any]) -> dict[str, Any]:
    """Scalar arrays as Python numbers, others as lists of them; the norms of layers, which few steps keep, as they are.

    An array of JAX becomes one of Numpy first: its own `tolist` takes four times as long.
    """
    return {
        name: value if isinstance(value, LayerNorms) else np.asarray(value).tolist() for name, value in metrics.items()
    }


class MetricsFile:
    """Writes rows as lines of JSON; a number that is not finite as null, for JSON has no NaN."""

    def __init__(self, path: Path, append: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a" if append else "w", encoding="utf-8")

    def write(self, rows: Iterable[MetricsRow]) -> None:
        """Write and flush the rows: a run that is killed loses none."""
        self._file.write("".join([_line(row) for row in rows]))
        self._file.flush()

    def sync(self) -> int:
        """Wait until every byte is on the disk, so that a power cut loses none; returns the size in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


_encoded = json.JSONEncoder(allow_nan=False).encode


def _line(row: MetricsRow) -> str:
    try:
        return _encoded(row) + "\n"
    except ValueError:  # of a number that is not finite
        return json.dumps({name: _finite(value) for name, value in row.items()}) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cut_metrics(path: Path, size: int) -> str | None:
    """Cut the file to the size it had at a checkpoint, so that the run can go on from there.

    Returns what is wrong with what is left, or None: it was lost, cut off or changed since.
    """
    if not path.exists():
        return f"{path} is missing: its records begin anew" if size else None
    whole = path.stat().st_size
    if whole > size:
        os.truncate(path, size)
    problem = f"it had {size} bytes at the checkpoint and has {whole}" if whole < size else _bad_line(path)
    if problem is None:
        return None
    kept = path.with_name(f"{path.stem}.damaged{path.suffix}")
    os.replace(path, kept)
    return f"{path} is damaged ({problem}): it is kept as {kept.name}, and its records begin anew"


def keep_metrics(path: Path) -> str | None:
    """Rename the metrics of a run that begins anew, so that they are not overwritten; returns a line that says so."""
    if not path.is_file() or not path.stat().st_size:
        return None
    names = (path.with_name(f"{path.stem}.before{number}{path.suffix}") for number in ("", *range(2, 1000)))
    kept = next(name for name in names if not name.exists())
    path.rename(kept)
    return f"{path} is of steps that no checkpoint has: it is kept as {kept.name}"


def _bad_line(path: Path) -> str | None:
    try:
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            if not (line.endswith(b"\n") and isinstance(json.loads(line), dict)):
                return f"line {number} is no record"
    except ValueError:
        return f"line {number} is no record"
    return None


def curve(rows: Iterable[MetricsRow], name: str) -> tuple[list[int], list[float]]:
    """The steps that have a metric of this name, and its values."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in points], [value for _, value in points]
