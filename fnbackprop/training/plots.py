"""Pictures of a run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .metrics import Record, curve

PANELS = (("loss", "loss"), ("gradient_norm", "gradient norm"))


def plot_curves(records: Sequence[Record], path: str | Path, title: str = "") -> Path:
    """Draw loss and gradient norm over the steps, on logarithmic scales, as a PNG; returns its path.

    The thin line is every step, the thick one an average over the last fiftieth of the run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(PANELS), 1, sharex=True)
    for panel, (name, label) in zip(panels, PANELS, strict=True):
        _draw(panel, *curve(records, name))
        panel.set_ylabel(label)
    panels[-1].set_xlabel("step")
    figure.suptitle(title)
    figure.savefig(path)
    return Path(path)


def _draw(panel: Any, steps: Sequence[int], values: Sequence[float]) -> None:
    panel.plot(steps, values, color="tab:blue", linewidth=0.8, alpha=0.4)
    panel.plot(steps, moving_average(values, max(1, len(values) // 50)), color="tab:blue", linewidth=1.8)
    if any(value > 0 for value in values):
        panel.set_yscale("log")
    panel.grid(alpha=0.3, which="both")
    bad = [step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
    if bad:
        panel.axvline(bad[0], color="tab:red", label=f"not finite from step {bad[0]}")
        panel.legend()


def moving_average(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and those before it, `width` in all (fewer at the beginning).

    >>> moving_average([1.0, 3.0, 5.0], 2)
    [1.0, 2.0, 4.0]
    """
    windows = (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
