"""Progress of a run: a live line on a terminal; elsewhere, a line each minute."""

import math
import time
from collections.abc import Callable

from ..run_folder import MetricsRow
from ..step.skipping import IN_A_ROW, SKIPPED
from ..step.spike_window import SPIKES, SPIKES_IN_A_ROW
from ..step.step_metrics import LAYER_PREFIX
from .throughput import Amount, short

SECONDS_BETWEEN = 60.0  # two lines
OWN_SHOWN = 4  # of the experiment's metrics
OWN_SHOWN_LIVE = 2  # of them, in a line that is drawn again
STANDARD = (
    *("step", "loss", "gradient_norm", "update_ratio", "learning_rate", "loss_scale"),
    *(SKIPPED, IN_A_ROW, SPIKES, SPIKES_IN_A_ROW),
)
SHORT_UNITS = {"tokens": "tok", "examples": "ex", "steps": "steps"}


class Rate:
    """Steps per second since the first metrics came, so without the time to compile."""

    def __init__(self, stop: int, clock: Callable[[], float] = time.monotonic):
        self._stop, self._clock = stop, clock
        self._first: tuple[int, float] | None = None

    def after(self, step: int) -> tuple[float, float]:
        """Steps per second, and the seconds left; both 0 while they are not known."""
        now = self._clock()
        self._first = self._first or (step, now)
        steps, seconds = step - self._first[0], now - self._first[1]
        if steps <= 0 or seconds <= 0:
            return 0.0, 0.0
        return steps / seconds, (self._stop - 1 - step) * seconds / steps


class SilentProgress:
    """Shows nothing."""

    amount: Amount | None = None  # what a step takes, once it is known

    def show(self, rows: list[MetricsRow]) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass


class PlainProgress(SilentProgress):
    """A line when the run begins, one for its first steps, and then one each minute: for a log file or a pipe."""

    def __init__(self, name: str, start: int, stop: int, place: str, clock: Callable[[], float] = time.monotonic):
        self._name, self._stop, self._rate, self._clock = name, stop, Rate(stop, clock), clock
        self._began, self._shown = clock(), -math.inf
        after = f" after {start}" if start else ""
        self.say(f"{name}: {stop - start} steps{after}, {place}")

    def show(self, rows: list[MetricsRow]) -> None:
        steps = [row for row in rows if "loss" in row]
        if not steps:
            return
        row, now = steps[-1], self._clock()
        done, rate = row["step"] + 1, self._rate.after(row["step"])
        if done < self._stop and now - self._shown < SECONDS_BETWEEN:
            return
        self._shown = now
        words = [describe(row, *rate, self.amount), f"{clock_time(now - self._began)} so far", *own_metrics(row)]
        self.say(f"{self._name}  step {done}/{self._stop}  {'  '.join(words)}")

    def say(self, line: str) -> None:
        print(line, flush=True)


def own_metrics(row: MetricsRow) -> list[str]:
    """The first few metrics of the experiment itself."""
    own = [name for name in row if name not in STANDARD and not name.startswith(LAYER_PREFIX)]
    return [f"{name} {row[name]:.4g}" for name in own[:OWN_SHOWN]]


class LiveProgress(SilentProgress):
    """One line that is drawn again and again on a terminal; with a bar where there is room for it."""

    def __init__(self, name: str, start: int, stop: int):
        import rich
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        width = rich.get_console().width
        self._tight, self._narrow, self._wide = width < 72, width <= 100, width >= 140
        least = 42 if self._tight else 52
        shrinks, stays = Column(no_wrap=True, overflow="ellipsis"), Column(no_wrap=True, min_width=least)
        count = MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(stop)) + 1))
        columns = [TextColumn("{task.description}", table_column=shrinks), count]
        columns.append(TextColumn("{task.fields[summary]}", table_column=stays))
        if not self._narrow:
            columns.insert(1, BarColumn(bar_width=20))
        self._bar = Progress(*columns)
        self._task = self._bar.add_task(name, total=stop, completed=start, summary="compiling ...")
        self._rate, self._began = Rate(stop), time.monotonic()
        self._bar.start()

    def show(self, rows: list[MetricsRow]) -> None:
        steps = [row for row in rows if "loss" in row]
        if steps:
            row = steps[-1]
            done = row["step"] + 1
            if self._tight:
                row = {name: value for name, value in row.items() if name != "update_ratio"}
            text = describe(row, *self._rate.after(done - 1), self.amount, self._narrow)
            if self._wide:
                so_far = f"{clock_time(time.monotonic() - self._began)} so far"
                text = "  ".join([text, so_far, *own_metrics(steps[-1])[:OWN_SHOWN_LIVE]])
            self._bar.update(self._task, completed=done, summary=text)

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def describe(
    row: MetricsRow, rate: float, seconds_left: float, amount: Amount | None = None, narrow: bool = False
) -> str:
    """The metrics of a step in a few words: loss, gradient norm, update-to-weight ratio, speed, time left.

    Args:
      row: of a step.
      rate: steps per second, 0 if it is not known.
      seconds_left: shown with the rate.
      amount: what a step takes, for the speed; steps are counted if it is not known.
      narrow: at most 55 characters, for a terminal of 80 columns.
    """
    words = [f"loss {row['loss']:.4g}", f"grad {row['gradient_norm']:.{0 if narrow else 1}e}"]
    if "update_ratio" in row:
        words.append(f"upd {row['update_ratio']:.0e}")
    if rate:
        count, unit = (1, "steps") if amount is None else amount
        words += [f"{short(rate * count)} {SHORT_UNITS[unit]}/s", f"{clock_time(seconds_left)} left"]
    return (" " if narrow else "  ").join(words)


def clock_time(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss.

    >>> clock_time(65), clock_time(3700)
    ('1:05', '1:01:40')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def make_progress(name: str, start: int, stop: int, shown: bool = True, place: str = "") -> SilentProgress:
    """A live line if stdout is a terminal, plain lines otherwise, nothing if not `shown`.

    FORCE_COLOR makes rich take a pipe for a terminal: colours are welcome there, a line that is drawn again is not.
    """
    if not shown:
        return SilentProgress()
    import rich

    live = rich.get_console().is_terminal and rich.get_console().file.isatty()
    return LiveProgress(name, start, stop) if live else PlainProgress(name, start, stop, place)
