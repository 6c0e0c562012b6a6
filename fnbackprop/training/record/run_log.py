"""Where the records of a run go: to the progress line, to the metrics file, and past the check for NaN."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from ..step.mixed_precision import SMALLEST_SCALE
from ..step.step_metrics import spread
from .metrics import METRICS_FILE, MetricBuffer, MetricsFile, Record, as_scalars, read_metrics
from .plots import plot_curves
from .progress_line import make_progress
from .run_report import REPORT_FILE
from .throughput import Amount

CURVES_FILE = "curves.png"


class RunError(OSError):
    """What a run writes could not be written or read; the message says what is left and what to do."""


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite, or the gradient did at every loss scale; `step` is the first such step."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Recorder:
    """Shows and writes the records of a run; a context manager that closes what it opened."""

    def __init__(self, name: str, folder: Path | None, *, start: int, stop: int, progress: bool):
        self._name, self._folder = name, folder
        self._layers, self._layers_every = (), 1
        self.sinks: list[Any] = []  # what else has `write(records)` and `close()`
        with self._telling_failure():
            self._file = None if folder is None else MetricsFile(folder / METRICS_FILE, append=start > 0)
        self._progress = make_progress(name, start, stop, progress)
        self._buffer = MetricBuffer()
        self._last: Record | None = None
        self.evaluation: tuple[int, dict[str, Any]] = (-1, {})  # the last one: updates made, and its metrics

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.close()
        for sink in self.sinks:
            sink.close()
        if self._file is not None:
            with suppress(OSError):  # each write has been flushed already, or has raised
                self._file.close()

    def name_layers(self, layers: Sequence[str], every: int) -> None:
        """The names for the gradient norms of layers, which are kept at every so many steps: there may be hundreds."""
        self._layers, self._layers_every = layers, every

    @property
    def amount(self) -> Amount | None:
        """What a step takes, for the speed that is shown; None while it is not known."""
        return self._progress.amount

    @amount.setter
    def amount(self, amount: Amount) -> None:
        self._progress.amount = amount

    def say(self, line: str) -> None:
        self._progress.say(line)

    def step(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take a step's metrics, which may still be on the device; they are recorded when that costs no waiting."""
        self.record(self._buffer.add(step, metrics))

    def flush(self) -> None:
        """Record every step up to now, once the device has ended it."""
        self.record(self._buffer.rest())

    def record(self, records: list[Record]) -> None:
        """Write and show the records of steps; raises NonFiniteLoss at the first whose loss is NaN or infinite."""
        if not records:
            return
        records = [spread(record, self._layers, record["step"] % self._layers_every == 0) for record in records]
        self._write(records)
        self._progress.show(records)
        for record in records:
            if not math.isfinite(record["loss"]):
                raise NonFiniteLoss(non_finite_message(self._name, record, self._last), record["step"])
            if record.get("loss_scale") == SMALLEST_SCALE and not math.isfinite(record["gradient_norm"]):
                raise NonFiniteLoss(overflow_message(self._name, record), record["step"])
            self._last = record

    def evaluated(self, updates: int, values: dict[str, Any]) -> None:
        """Write and show an evaluation made after so many updates."""
        if not values:
            return
        values = as_scalars(values)
        self.evaluation = (updates, values)
        self._write([{"step": updates, **{f"evaluate/{name}": value for name, value in values.items()}}])
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.say(f"{self._name}  step {updates}  {shown}")

    def written(self) -> int:
        """How many bytes the metrics file has, all of them on the disk when this returns."""
        with self._telling_failure():
            return 0 if self._file is None else self._file.sync()

    def _write(self, records: list[Record]) -> None:
        with self._telling_failure():
            for sink in ([] if self._file is None else [self._file]) + self.sinks:
                sink.write(records)

    @contextmanager
    def _telling_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"{self._folder / METRICS_FILE} cannot be written: {reason}.") from None

    def draw(self, title: str) -> None:
        """Draw the curves of the metrics file beside it, if there is anything in it."""
        records = [] if self._folder is None else read_metrics(self._folder)
        if not any("loss" in record for record in records):
            return
        try:
            picture = plot_curves(records, self._folder / CURVES_FILE, title)
        except OSError as error:  # a full disk, say: no reason to lose the run
            self.say(f"{self._name}: the curves cannot be drawn: {error}")
        else:
            written = [METRICS_FILE, picture.name, REPORT_FILE]
            there = [name for name in written if (self._folder / name).is_file()]
            self.say(f"{self._name}: {', '.join(there)} in {self._folder}")


def overflow_message(name: str, record: Record) -> str:
    """What is known about a gradient that overflows in float16 whatever the loss scale."""
    return (
        f"the gradient of {name} is {record['gradient_norm']} at step {record['step']}, though the loss scale is down "
        'to 1: no step would change the parameters. Try precision="bfloat16", which has the range of float32.'
    )


def non_finite_message(name: str, record: Record, before: Record | None) -> str:
    """What is known about a loss that is not finite, and what to do."""
    where = f"the loss of {name} is {record['loss']} at step {record['step']}"
    if before is None:
        return f"{where}, the first: it comes from the initial parameters or from the data of batch({record['step']})."
    last = f"at step {before['step']} it was {before['loss']:.4g} with a gradient of norm {before['gradient_norm']:.3g}"
    if math.isfinite(before["gradient_norm"]):
        advice = "Try a lower learning rate, or clip the gradient: optax.chain(optax.clip_by_global_norm(1.0), ...)."
    else:
        advice = f"The gradient broke first, at step {before['step']}: look there for a sqrt, a log or a division at 0."
    return f"{where}; {last}. {advice}"
