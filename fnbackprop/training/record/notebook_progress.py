"""Progress of a run in a notebook: a curve of the loss that is drawn again while the run goes on."""

import sys
import time
from collections.abc import Callable

from ..run_folder import MetricsRow
from .curve_drawing import curves_svg
from .progress_line import PlainProgress, describe

SECONDS_BETWEEN = 2.0  # two drawings


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    return "ipykernel" in sys.modules


class NotebookProgress(PlainProgress):
    """The loss over the steps, with the newest numbers below, in one output that is replaced; lines stand before it."""

    def __init__(self, name: str, start: int, stop: int, place: str, clock: Callable[[], float] = time.monotonic):
        from IPython.display import HTML, display

        super().__init__(name, start, stop, place, clock)
        self._html, self._rows, self._drawn_at = HTML, [], clock()
        self._output = display(HTML("compiling ..."), display_id=True)

    def show(self, rows: list[MetricsRow]) -> None:
        self._rows += [{"step": row["step"], "loss": row["loss"]} for row in rows if "loss" in row]
        if not self._rows:
            return
        last, now = rows[-1], self._clock()
        ends = last["step"] + 1 >= self._stop
        rate = self._rate.after(last["step"])
        if "loss" in last and (ends or now - self._drawn_at >= SECONDS_BETWEEN):
            self._drawn_at = now
            words = f"step {last['step'] + 1}/{self._stop}  {describe(last, *rate, self.amount)}"
            curve = curves_svg({"": self._rows}, "loss", "loss") if len(self._rows) > 1 else ""
            self._output.update(self._html(f"{curve}<pre>{words}</pre>"))
