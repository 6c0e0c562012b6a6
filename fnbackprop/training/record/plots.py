"""Pictures of a run, or of several in one."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..run_folder import MetricsRow
from ..step.step_metrics import LAYER_PREFIX, WATCHED
from .metrics import curve

PANELS = {
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "update_ratio": "update / weight",
    "learning_rate": "learning rate",
}
RUNS_IN_LINE = 2  # of the legend
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")
EVALUATED = "evaluate/"
MOST_PANELS = 12
POINTS = 400  # in a line; longer series are averaged in that many bins, with a band from minimum to maximum
MOST_LINEAR = 4  # a metric that grows or falls by more has a logarithmic scale
INK, BROKEN = "#777777", "#d62728"

Runs = Mapping[str, Sequence[MetricsRow]]


def plot_curves(rows: Sequence[MetricsRow] | Runs, path: str | Path, title: str = "") -> Path:
    """Draw loss, gradient norm, update-to-weight ratio and the run's other metrics over the steps as a PNG; returns its
    path.

    Args:
      rows: of one run, or of several by their labels.
      path: of the picture.
      title: above it.
    """
    from matplotlib.lines import Line2D

    runs = rows if isinstance(rows, Mapping) else {"": rows}
    names = panels_of(runs)
    lines = -(-len(runs) // RUNS_IN_LINE) if any(runs) else 0  # of the legend, which is above the panels
    top, height = 0.45 + 0.25 * lines, 1 + 2.5 * len(names) + 0.25 * lines
    figure = new_figure(8, height, layout="none")  # one that is found takes as long as to draw
    place = {"left": 0.12, "right": 0.98, "top": 1 - top / height, "bottom": 0.55 / height, "hspace": 0.12}
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False, gridspec_kw=place)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        draw_panel(panel, runs, name, label_of(name))
    panels[-1].set_xlabel("step")
    figure.suptitle(title, y=1 - 0.2 / height, va="center")
    if lines:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 1 - 0.3 / height), "ncols": RUNS_IN_LINE}
        shown = [Line2D([], [], color=colour, label=run) for run, colour in zip(runs, _colours(runs), strict=True)]
        figure.legend(handles=shown, labelcolor="linecolor", frameon=False, borderaxespad=0, **place)
    figure.savefig(path)
    return Path(path)


def panels_of(runs: Runs) -> list[str]:
    """The metrics that are drawn: those of every run, then those of evaluations and of the loss that make a curve."""
    standard = [name for name in PANELS if any(name in row for rows in runs.values() for row in rows)]
    names = dict.fromkeys(name for rows in runs.values() for row in rows for name in row)
    others = [name for name in names if name not in (*PANELS, "step") and not name.startswith((LAYER_PREFIX, WATCHED))]
    curves = [name for name in others if any(len(curve(rows, name)[0]) > 1 for rows in runs.values())]
    evaluated = sorted(curves, key=lambda name: not name.startswith(EVALUATED))
    return [*standard, *evaluated][:MOST_PANELS]


def label_of(name: str) -> str:
    """A metric in words; one of `evaluate` says so, for the loss may have one of the same name.

    >>> label_of("update_ratio"), label_of("evaluate/test_loss")
    ('update / weight', 'test loss (evaluate)')
    """
    words = name.removeprefix(EVALUATED).replace("_", " ")
    return f"{words} (evaluate)" if name.startswith(EVALUATED) else PANELS.get(name, words)


def new_figure(width: float, height: float, layout: str = "constrained") -> Any:
    """A figure that belongs to no window; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def draw_panel(panel: Any, runs: Runs, name: str, label: str) -> None:
    """One metric of each run in one panel, on a logarithmic scale where it is positive."""
    for rows, colour in zip(runs.values(), _colours(runs), strict=True):
        _draw(panel, *curve(rows, name), colour)
    values = [row[name] for rows in runs.values() for row in rows if name in row]
    if is_logarithmic(values):
        positive = [value for value in values if 0 < value < math.inf]
        _logarithmic(panel, decades=math.log10(max(positive) / min(positive)))
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[1]:
        panel.legend(labelcolor="linecolor", framealpha=0)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether a metric of these values has a logarithmic scale; zeros, as of a warmup's first step, may be there."""
    shown = [value for value in values if math.isfinite(value)]
    positive = [value for value in shown if value > 0]
    return bool(positive) and min(shown) >= 0 and max(positive) > MOST_LINEAR * min(positive)


def _logarithmic(panel: Any, decades: float) -> None:
    """A logarithmic scale with plain numbers at its ticks, more of them within a decade where there are few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    steps = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _colours(runs: Runs) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(runs))]


def _draw(panel: Any, steps: Sequence[int], values: Sequence[float], colour: str) -> None:
    place, mean, low, high = summarise(steps, values)
    if len(place) < len(steps):
        panel.fill_between(place, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(place, mean, color=colour, linewidth=1.6, marker="." if len(place) == 1 else "")
    bad = [step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
    if bad:
        panel.axvline(bad[0], color=BROKEN, linestyle=":", label=f"not finite from step {bad[0]}")


def summarise(
    steps: Sequence[int], values: Sequence[float], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(middle step, mean, lowest, highest) of at most `points` parts of a curve that follow one another.

    >>> [part.tolist() for part in summarise([0, 1, 2, 3], [1.0, 3.0, 5.0, 5.0], points=2)]
    [[0.5, 2.5], [2.0, 5.0], [1.0, 5.0], [3.0, 5.0]]
    """
    width = -(-len(steps) // points) or 1
    starts = np.arange(0, len(steps), width)
    if not len(starts):
        return (np.zeros(0),) * 4
    place, array = np.asarray(steps, float), np.asarray(values, float)
    sizes = np.diff([*starts, len(steps)])
    means = [np.add.reduceat(part, starts) / sizes for part in (place, array)]
    return *means, np.minimum.reduceat(array, starts), np.maximum.reduceat(array, starts)
