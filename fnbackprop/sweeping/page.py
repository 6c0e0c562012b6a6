"""A sweep as a page: a table of its runs, the best first, and a line for each through its options and its result."""

import html
import math
from collections.abc import Sequence
from pathlib import Path

from ..pages import document
from .table import Row

WIDTH, HEIGHT, LEFT, TOP = 1100, 360, 70, 40
STYLE = """
.lines path { fill: none; stroke-width: 1.6; opacity: .75; } .lines path:hover { stroke-width: 4; opacity: 1; }
.lines text { font: 12px system-ui, sans-serif; fill: currentColor; paint-order: stroke; stroke: var(--page);
              stroke-width: 3px; }
.lines line { stroke: currentColor; opacity: .5; }
.scroll .lines { min-width: 900px; }
"""


def write_page(rows: Sequence[Row], metric: str, title: str, path: Path) -> Path:
    """Write the page of a sweep whose rows are sorted, the best first; returns its path."""
    options = list(rows[0].point)
    head = ["place", *options, metric, "status", "run"]
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>"]
    for place, row in enumerate(rows, start=1):
        cells = [str(place), *row.point.values(), _number(row.result), row.status]
        text = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        link = ""
        if row.report is not None and row.report.is_file():
            target = html.escape(row.report.relative_to(path.parent).as_posix().replace(",", "%2C").replace("=", "%3D"))
            link = f'<a href="{target}">report</a>'
        lines.append(f"<tr>{text}<td>{link}</td></tr>")
    body = [f"<h1>{html.escape(title)}</h1>"]
    measured = [row for row in rows if math.isfinite(row.result)]
    if measured:
        note = f"{len(rows)} runs. A line is a run; the reddest are the best by {metric}. Hover for the options."
        body += [f'<p class="note">{html.escape(note)}</p>']
        body += [f'<div class="scroll">{parallel_coordinates(measured, metric)}</div>']
    body += ["<h2>Runs</h2>", '<div class="scroll"><table>', *lines, "</table></div>"]
    path.write_text(document(title, "\n".join(body), STYLE), encoding="utf-8")
    return path


def parallel_coordinates(rows: Sequence[Row], metric: str) -> str:
    """An SVG element with an axis for each option and for the result, and a line for each run."""
    names = [*rows[0].point, metric]
    columns = [[row.point[name] for row in rows] for name in names[:-1]] + [[_number(row.result) for row in rows]]
    gap = (WIDTH - 2 * LEFT) / (len(names) - 1)
    heights, parts, labels = [], [], []
    for number, (name, column) in enumerate(zip(names, columns, strict=True)):
        x = LEFT + number * gap
        places = _places(column)
        heights.append(places)
        parts.append(f'<line x1="{x:.0f}" y1="{TOP}" x2="{x:.0f}" y2="{HEIGHT - 20}"/>')
        parts.append(f'<text x="{x:.0f}" y="20" text-anchor="middle" font-weight="600">{html.escape(name)}</text>')
        for value, y in _labelled(column, places):
            labels.append(f'<text x="{x + 6:.0f}" y="{y + 4:.0f}">{html.escape(value)}</text>')
    for index, row in reversed(list(enumerate(rows))):  # the best on top
        points = " L".join(f"{LEFT + i * gap:.1f} {places[index]:.1f}" for i, places in enumerate(heights))
        share = 1 - index / max(1, len(rows) - 1)
        colour = f"color-mix(in srgb, rgb(var(--heat)) {share:.0%}, rgb(var(--cool)))"
        told = ", ".join(f"{name} {value}" for name, value in row.point.items())
        title = html.escape(f"{told}: {metric} {_number(row.result)}")
        parts.append(f'<path d="M{points}" style="stroke:{colour}"><title>{title}</title></path>')
    return f'<svg class="lines" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">' + "".join(parts + labels) + "</svg>"


def _places(column: Sequence[str]) -> list[float]:
    """The height of each value: numbers by their size, or by its logarithm if they span much; others evenly."""
    try:
        numbers = [float(value) for value in column]
    except ValueError:
        known = sorted(set(column))
        numbers = [float(known.index(value)) for value in column]
    if min(numbers) > 0 and max(numbers) >= 8 * min(numbers):
        numbers = [math.log(number) for number in numbers]
    low, high = min(numbers), max(numbers)
    share = [(number - low) / (high - low) if high > low else 0.5 for number in numbers]
    return [HEIGHT - 30 - part * (HEIGHT - 40 - TOP) for part in share]


def _labelled(column: Sequence[str], places: Sequence[float], most: int = 8) -> list[tuple[str, float]]:
    """The values to be written beside an axis: all that differ, or the lowest and the highest of many."""
    found = sorted(dict(zip(column, places, strict=True)).items(), key=lambda pair: pair[1])
    return found if len(found) <= most else [found[0], found[-1]]


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"
