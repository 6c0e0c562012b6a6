"""A metric of some runs as an SVG element. `curves.js` draws the same when a reader changes scale, axis or smoothing.

It is written by hand: matplotlib takes 70 ms for a panel, of which a report has many, and half a second to be imported.
"""

import dataclasses
import html
import math
from collections.abc import Iterable, Sequence

from .metrics import curve
from .plots import BROKEN, COLOURS, Runs, is_logarithmic, summarise

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 210, 64, 412, 8, 172
MOST_TICKS = 5
FONT = 'font-family="system-ui, sans-serif" font-size="12" fill="currentColor"'


@dataclasses.dataclass(frozen=True)
class Axes:
    """Where numbers lie in the picture."""

    first: float
    last: float
    low: float
    high: float
    is_log: bool

    @classmethod
    def around(cls, places: Sequence[float], values: Sequence[float]) -> "Axes":
        """Those that hold all these steps and values, on the scale that fits."""
        is_log = is_logarithmic(values)
        shown = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
        across = widened(min(places, default=0), max(places, default=1), False)
        return cls(*across, *widened(min(shown, default=0.0), max(shown, default=1.0), is_log), is_log)

    def x(self, step: float) -> float:
        return LEFT + (RIGHT - LEFT) * (step - self.first) / (self.last - self.first)

    def y(self, value: float) -> float | None:
        """None of what is not finite; what is zero lies on the logarithmic axis."""
        if not math.isfinite(value):
            return None
        numbers = self.low, max(value, self.low), self.high
        lowest, here, highest = map(math.log, numbers) if self.is_log else numbers
        return BOTTOM - (BOTTOM - TOP) * (here - lowest) / (highest - lowest)

    def drawn(self, label: str, axis: str) -> list[str]:
        """The axes, their ticks and what is said beside them."""
        parts = []
        for value in ticks(self.low, self.high, self.is_log):
            y = self.y(value) or 0.0
            parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="currentColor" opacity=".25"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
        for step in ticks(self.first, self.last, False):
            parts.append(f'<text x="{self.x(step):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{step:.6g}</text>')
        parts.append(f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="currentColor"/>')
        parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(axis)}</text>')
        turned = f'transform="translate(10 {(TOP + BOTTOM) / 2}) rotate(-90)" text-anchor="middle"'
        return [*parts, f"<text {turned}>{html.escape(label)}</text>"]


def curves_svg(runs: Runs, name: str, label: str, axis: str = "step") -> str:
    """One metric of some runs over the steps, each at most 400 points with a band from the lowest to the highest.

    Args:
      runs: their metrics by their labels, "" if there is one.
      name: of the metric.
      label: beside it.
      axis: below it.
    """
    parts = panel_parts(runs, name, label, axis)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {FONT} role="img">{"".join(parts)}</svg>'


def panel_parts(runs: Runs, name: str, label: str, axis: str = "step", named: bool = True) -> list[str]:
    """What `curves_svg` draws, to be put into another picture. named: whether the runs' labels stand in the panel."""
    found = {run: curve(rows, name) for run, rows in runs.items()}
    places, values = ([x for pair in found.values() for x in pair[which]] for which in (0, 1))
    axes = Axes.around(places, values)
    parts, notes = axes.drawn(label, axis), []
    for (run, series), colour in zip(found.items(), COLOURS * len(found), strict=False):
        parts += _line(axes, *series, colour)
        notes += [(run, colour)] if run and named else []
        broken = next((step for step, value in zip(*series, strict=True) if not math.isfinite(value)), None)
        if broken is not None:
            parts.append(f'<path d="M{axes.x(broken):.1f} {TOP}V{BOTTOM}" stroke="{BROKEN}" stroke-dasharray="2 3"/>')
            notes.append((f"not finite from step {broken}", BROKEN))
    for number, (text, colour) in enumerate(notes):
        place = f'x="{RIGHT}" y="{TOP + 12 + 15 * number}" text-anchor="end" style="fill:{colour}"'
        parts.append(f"<text {place}>{html.escape(text)}</text>")
    return parts


def _line(axes: Axes, steps: Sequence[int], values: Sequence[float], colour: str) -> list[str]:
    """The line of one run, and its band; a point, if that is all."""
    place, *series = summarise(steps, values)
    xs = [axes.x(step) for step in place]
    mean, lowest, highest = (list(map(axes.y, part)) for part in series)
    parts = []
    if len(xs) < len(steps):
        back = _path(reversed(xs), list(reversed(lowest))).replace("M", "L", 1)
        parts.append(f'<path d="{_path(xs, highest)}{back}Z" fill="{colour}" opacity=".2"/>')
    if len(xs) == 1 and mean[0] is not None:
        parts.append(f'<circle cx="{xs[0]:.1f}" cy="{mean[0]:.1f}" r="3" fill="{colour}"/>')
    return [*parts, f'<path d="{_path(xs, mean)}" fill="none" stroke="{colour}" stroke-width="1.8"/>']


def widened(low: float, high: float, is_log: bool) -> tuple[float, float]:
    """The limits of an axis that has some length."""
    if low < high:
        return low, high
    return (low / 2, high * 2) if is_log else (low - (abs(low) or 1), high + (abs(high) or 1))


def ticks(low: float, high: float, is_log: bool) -> list[float]:
    """Round numbers between the limits, few enough to be read.

    >>> ticks(0, 2000, False), ticks(0.01, 3, True)
    ([0.0, 500.0, 1000.0, 1500.0, 2000.0], [0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
    """
    if is_log:
        decades = math.log10(high / low)
        within = (1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5)
        bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = max(1, round((top - bottom) / MOST_TICKS))
        found = (float(f"{part}e{power}") for power in range(bottom, top + 1, every) for part in within)
        return [tick for tick in found if low <= tick <= high]
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(part for part in (1, 2, 5, 10) if part * power >= rough * (1 - 1e-9))
    return [float(f"{n * step:.12g}") for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _path(xs: Iterable[float], ys: Sequence[float | None]) -> str:
    """The line through these points, broken where there is none."""
    pen, found = "M", []
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            pen = "M"
            continue
        found.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(found)
