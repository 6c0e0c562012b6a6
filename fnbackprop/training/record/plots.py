"""Pictures of a run, or of several in one."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..run_folder import MetricsRow
from ..step.step_metrics import LAYER_PREFIX
from .metrics import curve

PANELS = {
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "update_ratio": "update / weight",
    "learning_rate": "learning rate",
}
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink")
POINTS = 400  # in a line; longer series are averaged in that many bins, with a band from minimum to maximum
MOST_LINEAR = 4  # a metric that grows or falls by more has a logarithmic scale
INK, BROKEN = "#777777", "tab:red"

Runs = Mapping[str, Sequence[MetricsRow]]


def plot_curves(rows: Sequence[MetricsRow] | Runs, path: str | Path, title: str = "") -> Path:
    """Draw loss, gradient norm and update-to-weight ratio over the steps as a PNG; returns its path.

    Args:
      rows: of one run, or of several by their labels.
      path: of the picture.
      title: above it.
    """
    runs = rows if isinstance(rows, Mapping) else {"": rows}
    names = [name for name in PANELS if any(name in row for found in runs.values() for row in found)]
    figure = new_figure(8, 1 + 2.5 * len(names))
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        draw_panel(panel, runs, name, PANELS[name])
    panels[-1].set_xlabel("step")
    figure.suptitle(title)
    figure.savefig(path)
    return Path(path)


def curves_svg(runs: Runs, name: str, label: str, axis: str = "step") -> str:
    """One metric of some runs over the steps, or what stands in their place, as an SVG element."""
    figure = new_figure(5.2, 2.6)
    panel = figure.subplots()
    draw_panel(panel, runs, name, label)
    panel.set_xlabel(axis)
    return as_svg(figure)


def layers_svg(rows: Sequence[MetricsRow], label: str, prefix: str = LAYER_PREFIX) -> str:
    """The metrics of this prefix, the gradient norm of each layer, over the steps as a map: a row for each, light where
    it is large."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import NullLocator

    kept = [row for row in rows if any(name.startswith(prefix) for name in row)]
    names = list(dict.fromkeys(name for row in kept for name in row if name.startswith(prefix)))
    values = np.array([[row.get(name, math.nan) for row in kept] for name in names])  # (layers, steps)
    usable = values[np.isfinite(values) & (values > 0)]
    figure = new_figure(13.2, 1.2 + 0.17 * len(names))
    panel = figure.subplots()
    limits = (usable.min(), usable.max() * 1.001) if usable.size else (0.1, 1.0)
    steps = [row["step"] for row in kept]
    width = (steps[-1] - steps[0]) / max(1, len(steps) - 1) or 1
    extent = (steps[0] - width / 2, steps[-1] + width / 2, len(names) - 0.5, -0.5)
    shown = np.clip(values, *limits)
    image = panel.imshow(shown, aspect="auto", norm=LogNorm(*limits), extent=extent, interpolation="nearest")
    panel.set_yticks(range(len(names)), [name.removeprefix(prefix) for name in names], fontsize=8)
    panel.set_xlabel("step")
    bar = figure.colorbar(image, label=label, pad=0.01)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return as_svg(figure)


def new_figure(width: float, height: float) -> Any:
    """A figure that belongs to no window; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_svg(figure: Any) -> str:
    """The figure as an element to stand in a page: transparent, its text in the page's colour."""
    import matplotlib

    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(colors=INK, which="both")
        for part in (axes.xaxis.label, axes.yaxis.label, *axes.spines.values()):
            part.set_color(INK)
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def draw_panel(panel: Any, runs: Runs, name: str, label: str) -> None:
    """One metric of each run in one panel, on a logarithmic scale where it is positive."""
    for (run, rows), colour in zip(runs.items(), COLOURS * len(runs), strict=False):
        _draw(panel, *curve(rows, name), colour, run)
    values = (row[name] for rows in runs.values() for row in rows if name in row)
    shown = [value for value in values if math.isfinite(value)]
    positive = [value for value in shown if value > 0]  # a warmup's first step goes nowhere
    if positive and min(shown) >= 0 and max(positive) > MOST_LINEAR * min(positive):
        _logarithmic(panel, decades=math.log10(max(positive) / min(positive)))
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[1]:
        panel.legend(labelcolor="linecolor", framealpha=0)


def _logarithmic(panel: Any, decades: float) -> None:
    """A logarithmic scale with plain numbers at its ticks, more of them within a decade where there are few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    steps = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw(panel: Any, steps: Sequence[int], values: Sequence[float], colour: str, run: str) -> None:
    place, mean, low, high = summarise(steps, values)
    if len(place) < len(steps):
        panel.fill_between(place, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(place, mean, color=colour, linewidth=1.6, label=run or None, marker="." if len(place) == 1 else "")
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
