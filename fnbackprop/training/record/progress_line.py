"""Progress of a run: a live line on a terminal; elsewhere, a line for each tenth of the run."""

import time
from collections.abc import Callable

from ..run_folder import MetricsRow
from .throughput import Amount, short

PLAIN_LINES = 10
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
    """A line for each tenth of the run: for a log file or a pipe."""

    def __init__(self, name: str, stop: int):
        self._name, self._stop, self._rate = name, stop, Rate(stop)

    def show(self, rows: list[MetricsRow]) -> None:
        steps = [row for row in rows if "loss" in row]
        rate = self._rate.after(steps[-1]["step"]) if steps else (0.0, 0.0)
        for row in steps:
            done = row["step"] + 1
            if done == self._stop or done % -(-self._stop // PLAIN_LINES) == 0:
                self.say(f"{self._name}  step {done}/{self._stop}  {describe(row, *rate, self.amount)}")

    def say(self, line: str) -> None:
        print(line, flush=True)


class LiveProgress(SilentProgress):
    """One line that is drawn again and again on a terminal; with a bar where there is room for it."""

    def __init__(self, name: str, start: int, stop: int):
        import rich
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        shrinks, stays = Column(no_wrap=True, overflow="ellipsis"), Column(no_wrap=True, min_width=52)
        count = MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(stop)) + 1))
        columns = [TextColumn("{task.description}", table_column=shrinks), count]
        columns.append(TextColumn("{task.fields[summary]}", table_column=stays))
        self._narrow = rich.get_console().width <= 100
        if not self._narrow:
            columns.insert(1, BarColumn(bar_width=20))
        self._bar = Progress(*columns)
        self._task = self._bar.add_task(name, total=stop, completed=start, summary="compiling ...")
        self._rate = Rate(stop)
        self._bar.start()

    def show(self, rows: list[MetricsRow]) -> None:
        steps = [row for row in rows if "loss" in row]
        if steps:
            done = steps[-1]["step"] + 1
            text = describe(steps[-1], *self._rate.after(done - 1), self.amount, self._narrow)
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


def make_progress(name: str, start: int, stop: int, shown: bool = True) -> SilentProgress:
    """A live line if stdout is a terminal, plain lines otherwise, nothing if not `shown`."""
    if not shown:
        return SilentProgress()
    import rich

    return LiveProgress(name, start, stop) if rich.get_console().is_terminal else PlainProgress(name, stop)
