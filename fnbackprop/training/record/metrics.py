"""Metrics of a run: fetched from the device many steps at a time, and kept as a file of JSON lines.

A record is a dict: "step", "loss", "gradient_norm", "update_ratio" (how far the parameters went for their size) and the
experiment's own metrics for every step, with "gradient_norm/<layer>" for some of them; "step" and "evaluate/<name>" for
an evaluation, where "step" is the number of updates made before it.
"""

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

Record = dict[str, Any]

METRICS_FILE = "metrics.jsonl"
MOST_AT_ONCE = 32  # steps


class MetricBuffer:
    """Metrics that wait on the device until they can be fetched without stalling it.

    The newest `in_flight` steps are never waited for, so the device always has work queued. Older ones are, so that the
    host does not run ahead and fill the memory with batches; but many short steps at once, for each time costs some.
    Where the host is the slower one, what the device has ended is fetched every `interval` seconds.
    """

    def __init__(self, in_flight: int = 2, interval: float = 0.25, clock: Callable[[], float] = time.monotonic):
        self._in_flight, self._interval, self._clock = in_flight, interval, clock
        self._at_once = 1  # how many steps to wait for together: about those of `interval` seconds
        self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self._fetched_at = -math.inf

    def add(self, step: int, metrics: dict[str, jax.Array]) -> list[Record]:
        """Put a step's metrics in; the records of finished steps come out, of several or of none."""
        self._waiting.append((step, metrics))
        count = max(len(self._waiting) - self._in_flight, 0)
        if count < self._at_once and self._clock() - self._fetched_at < self._interval:
            return []
        if count:
            jax.block_until_ready(self._waiting[count - 1][1])
        count += sum(1 for _ in itertools.takewhile(_ended, self._waiting[count:]))
        if not count:
            return []
        seconds = self._clock() - self._fetched_at
        fitting = count * self._interval / seconds if seconds > 0 else MOST_AT_ONCE
        self._at_once = int(min(max(fitting, 1), MOST_AT_ONCE))
        return self._fetch(count)

    def rest(self) -> list[Record]:
        """All records that are left, once their steps have ended."""
        return self._fetch(len(self._waiting))

    def _fetch(self, count: int) -> list[Record]:
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._fetched_at = self._clock()
        values = jax.device_get([metrics for _, metrics in taken])
        return [_record(step, as_scalars(metrics)) for (step, _), metrics in zip(taken, values, strict=True)]


def _ended(waiting: tuple[int, dict[str, Any]]) -> bool:
    """Whether the device has ended a step; without jit, a metric may be a Python number."""
    return all(value.is_ready() for value in waiting[1].values() if hasattr(value, "is_ready"))


def _record(step: int, metrics: dict[str, Any]) -> Record:
    """What every step has comes first; a compiled step returns its metrics in alphabetical order."""
    first = {name: metrics[name] for name in ("loss", "gradient_norm", "update_ratio") if name in metrics}
    return {"step": step, **first, **metrics}


def as_scalars(metrics: dict[str, Any]) -> dict[str, Any]:
    """Scalar arrays as Python numbers, others as lists of them."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in metrics.items()}


class MetricsFile:
    """Writes records as JSON lines. A number that is not finite is written as null, for JSON has no NaN."""

    def __init__(self, path: Path, append: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a" if append else "w", encoding="utf-8")

    def write(self, records: Iterable[Record]) -> None:
        """Write the records, all of them on disk's side when this returns: a killed run loses none."""
        self._file.writelines(json.dumps({k: _finite(v) for k, v in record.items()}) + "\n" for record in records)
        self._file.flush()

    def sync(self) -> int:
        """The file's size in bytes, once all of them are on the disk itself: a power cut loses none."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(run: str | Path) -> list[Record]:
    """The records of a run, from its folder `runs/<name>` or from the file itself; null is read as NaN.

    A last line that was only half written when the run was killed is left out.
    """
    path = Path(run)
    path = path / METRICS_FILE if path.is_dir() else path
    with open(path, encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: math.nan if v is None else v for k, v in record.items()} for record in records]


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


def _bad_line(path: Path) -> str | None:
    try:
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            if not (line.endswith(b"\n") and isinstance(json.loads(line), dict)):
                return f"line {number} is no record"
    except ValueError:
        return f"line {number} is no record"
    return None


def curve(records: Iterable[Record], name: str) -> tuple[list[int], list[float]]:
    """The steps that have a metric of this name, and its values."""
    points = [(record["step"], record[name]) for record in records if name in record]
    return [step for step, _ in points], [value for _, value in points]
