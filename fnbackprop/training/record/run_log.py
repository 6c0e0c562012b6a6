"""The log of a run: its metrics go to the progress line and to the metrics file, and a loss of NaN ends the run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import jax

from fnbackprop.experiment_checks import check_evaluation
from fnbackprop.media import divided

from ..errors import NonFiniteLoss, RunError
from ..loggers.group import Loggers
from ..run_folder import MetricsRow, Records, RunFolder
from ..step.loss_scale import SMALLEST_SCALE
from ..step.skipping import IN_A_ROW, SKIPPED
from ..step.spike_window import SPIKES, SPIKES_IN_A_ROW
from ..step.step_metrics import expand_layer_norms
from .curves_file import plot_curves
from .media_files import last_media, write_media
from .metrics import MetricBuffer, MetricsFile, as_scalars
from .notebook_progress import NotebookProgress, in_notebook
from .progress_line import make_progress
from .throughput import Amount
from .times import Times

if TYPE_CHECKING:
    from .run_watch import RunWatch


class RunLog:
    """Shows and writes the metrics of a run; a context manager that closes what it opened.

    Args:
      name: the run's, for what is shown.
      folder: the run's; None writes nothing.
      start, stop: the first step, and the one after the last.
      progress: whether to show how the run goes.
    """

    def __init__(self, name: str, folder: RunFolder | None, *, start: int, stop: int, progress: bool):
        self._name, self._folder = name, folder
        self.layers_every = 1  # the norms of layers, maybe hundreds, are written at every so many steps
        self.watch: RunWatch | None = None  # tells of spikes
        self.most_skipped = 0  # updates on end that may be left out
        self.loggers: Loggers | None = None  # whoever else takes the metrics
        with self._naming_the_file():
            self._file = None if folder is None else MetricsFile(folder.metrics, append=start > 0)
            self._times = Times(folder, start)
        place = "nothing is written" if folder is None else f"in {folder.path}"
        if progress and in_notebook():
            self._progress = NotebookProgress(name, start, stop, place)
        else:
            self._progress = make_progress(name, start, stop, progress, place)
        self._buffer = MetricBuffer()
        self._last: MetricsRow | None = None
        self._records: tuple[int, Records] = (-1, ([], 0))  # the size of the file of metrics, and what it held then
        self._drawn: bool | None = None  # whether the curves are; None: it was not tried
        self.evaluation: tuple[int, dict[str, Any]] = (-1, {})  # the last: number of updates, and its metrics

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, error: type[BaseException] | None, *rest: Any) -> None:
        if self.loggers is not None:
            folder = self._folder
            files = [] if folder is None else [folder.curves, folder.report, folder.model, *last_media(folder)]
            self.loggers.finish("stopped" if error else "finished", [file for file in files if file.is_file()])
        self._progress.close()
        self._times.close()
        if self._file is not None:
            with suppress(OSError):  # each write has been flushed already, or has raised
                self._file.close()

    @property
    def amount(self) -> Amount | None:
        """What a step takes, for the speed that is shown; None while it is not known."""
        return self._progress.amount

    @amount.setter
    def amount(self, amount: Amount) -> None:
        self._progress.amount = amount

    def say(self, line: str) -> None:
        self._progress.say(line)

    def add_step(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Add the metrics of a step, which the device may still be computing: they are written once they are there."""
        self.add_rows(self._buffer.add(step, metrics))

    def flush(self) -> None:
        """Wait for the device, and write the metrics of every step so far."""
        self.add_rows(self._buffer.rest())

    def add_rows(self, rows: list[MetricsRow]) -> None:
        """Write and show the metrics of steps; raises NonFiniteLoss at the first whose loss is NaN or infinite."""
        if not rows:
            return
        if self.watch is not None:
            for line in filter(None, map(self.watch.look, rows)):
                self.say(f"{self._name}: {line}")
        rows = [expand_layer_norms(row, row["step"] % self.layers_every == 0) for row in rows]
        self._write(rows)
        with self._naming_the_file():
            timed = self._times.row(rows[-1]["step"], self.amount)
        if self.loggers is not None:
            self.loggers.write([timed])
        self._progress.show(rows)
        for row in rows:
            if row.get(IN_A_ROW, 0):
                self._tell_of_skipped(row)
            elif not math.isfinite(row["loss"]):
                broke = self._last if self._last and broke_before(self._last) else row
                facts, advice = non_finite_message(self._name, row, self._last)
                raise NonFiniteLoss(facts, broke["step"], advice)
            if row.get(SPIKES_IN_A_ROW, 0):
                self.say(
                    f"{self._name}  step {row['step']}: a spike, the loss is {row['loss']:.4g}, the gradient's norm "
                    f"{row['gradient_norm']:.4g}: not updated ({row[SPIKES]} so far)"
                )
            if row.get("loss_scale") == SMALLEST_SCALE and not math.isfinite(row["gradient_norm"]):
                facts, advice = overflow_message(self._name, row)
                raise NonFiniteLoss(facts, row["step"], advice)
            self._last = row

    def _tell_of_skipped(self, row: MetricsRow) -> None:
        """Say that an update was left out; raise NonFiniteLoss if there were too many on end."""
        what = f"the loss is {row['loss']:.4g}, the gradient's norm {row['gradient_norm']:.4g}"
        if row[IN_A_ROW] > self.most_skipped:
            raise NonFiniteLoss(
                f"at step {row['step']} of {self._name} {what}: that is so for {row[IN_A_ROW]} steps on end, and "
                f"skip_nonfinite allows {self.most_skipped}.",
                row["step"],
            )
        self.say(f"{self._name}  step {row['step']}: {what}: not updated ({row[SKIPPED]} so far)")

    def add_evaluation(self, updates: int, values: dict[str, Any]) -> None:
        """Write and show an evaluation made after this number of updates."""
        values, media = divided(values)
        check_evaluation(values)
        if self._folder is not None and media:
            self._keep_media(self._folder, updates, media)
        if not values:
            return
        values = as_scalars(values)
        self.evaluation = (updates, values)
        self._write([{"step": updates, **{f"evaluate/{name}": value for name, value in values.items()}}])
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.say(f"{self._name}  step {updates}  evaluate: {shown}")  # the loss may have metrics of these names

    def _keep_media(self, folder: RunFolder, updates: int, media: dict[str, Any]) -> None:
        try:
            write_media(folder, updates, media)
        except OSError as error:  # a full disk, say: no reason to lose the run
            self.say(f"{self._name}: {', '.join(media)} cannot be written: {error}")

    def add_watched(self, step: int, sizes: dict[str, float]) -> None:
        """Write the sizes of values and cotangents that were seen before a step."""
        if sizes:
            self._write([{"step": step, **sizes}])

    def sync(self) -> int:
        """Wait until the metrics file is on the disk; returns its size in bytes."""
        with self._naming_the_file():
            return 0 if self._file is None else self._file.sync()

    def _write(self, rows: list[MetricsRow]) -> None:
        with self._naming_the_file():
            if self._file is not None:
                self._file.write(rows)
        if self.loggers is not None:
            self.loggers.write(rows)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """An error of the operating system becomes a RunError that names the metrics file."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            file = "the metrics" if self._folder is None else self._folder.metrics
            raise RunError(f"{file} cannot be written: {reason}.") from None

    def records(self, folder: RunFolder) -> Records:
        """What `folder.read_records` returns, for the curves and for the report: read again if the file has grown."""
        size = folder.metrics.stat().st_size if folder.metrics.is_file() else 0
        if size != self._records[0]:
            self._records = size, folder.read_records()
        return self._records[1]

    def draw_curves(self, title: str) -> None:
        """Draw the curves of all metrics written so far, if there are any."""
        folder = self._folder
        rows = [] if folder is None else self.records(folder)[0]
        if folder is None or not any("loss" in row for row in rows):
            return
        try:
            plot_curves(rows, folder.curves, title)
            self._drawn = True
        except Exception as error:  # a full disk, say: no reason to lose the run
            self._drawn = False
            self.say(f"{self._name}: the curves cannot be drawn: {error}")

    def say_what_is_there(self, title: str) -> None:
        """Say what the run's folder holds, with the curves: of a run that was stopped, they are drawn now."""
        if self._drawn is None:
            self.draw_curves(title)
        folder = self._folder
        if self._drawn and folder is not None:
            there = [file.name for file in (folder.metrics, folder.curves, folder.report) if file.is_file()]
            self.say(f"{self._name}: {', '.join(there)} in {folder.path}")


def overflow_message(name: str, row: MetricsRow) -> tuple[str, str]:
    """What is known about a gradient that overflows in float16 whatever the loss scale, and what to do."""
    return (
        f"the gradient of {name} is {row['gradient_norm']} at step {row['step']}, though the loss scale is down "
        "to 1: no step would change the parameters.",
        'Try precision="bfloat16", which has the range of float32.',
    )


def non_finite_message(name: str, row: MetricsRow, before: MetricsRow | None) -> tuple[str, str]:
    """What is known about a loss that is not finite, and what to do if its batch is finite."""
    where = f"the loss of {name} is {row['loss']} at step {row['step']}"
    if before is None:
        return f"{where}, the first.", f"It comes from the initial parameters or from the data of batch({row['step']})."
    last = f"at step {before['step']} it was {before['loss']:.4g} with a gradient of norm {before['gradient_norm']:.3g}"
    facts = f"{where}; {last}."
    if broke_before(before):
        broke = f"The gradient broke first, at step {before['step']}, and its update made the parameters non-finite."
        return f"{facts} {broke}", ""
    return facts, "Try a lower learning rate, or clip the gradient: optax.chain(optax.clip_by_global_norm(1.0), ...)."


def broke_before(row: MetricsRow) -> bool:
    """Whether the gradient of a step whose loss is finite is not, and was not left out by a loss scale."""
    return "loss_scale" not in row and not math.isfinite(row["gradient_norm"])
