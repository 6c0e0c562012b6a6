"""The picture of a run, or of several in one: a file that any browser shows, light whatever is around it."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..run_folder import MetricsRow
from .curve_drawing import FONT, HEIGHT, WIDTH, panel_parts
from .plots import COLOURS, Runs, label_of, panels_of

COLUMNS = 2  # of panels, and of labels in the legend
MARGIN, TITLE, LABEL = 12, 30, 20  # pixels around and between panels; the height of the title and of a line of labels
PAPER, INK = "#ffffff", "#333333"


def plot_curves(rows: Sequence[MetricsRow] | Runs, path: str | Path, title: str = "") -> Path:
    """Draw loss, gradient norm, update-to-weight ratio and the run's other metrics over the steps as an SVG; returns
    its path.

    Args:
      rows: of one run, or of several by their labels.
      path: of the picture.
      title: above it.
    """
    runs = rows if isinstance(rows, Mapping) else {"": rows}
    names = panels_of(runs)
    labels = [label for label in runs if label]
    top = TITLE + LABEL * _lines(len(labels)) + MARGIN
    width = 2 * MARGIN + COLUMNS * WIDTH + (COLUMNS - 1) * MARGIN
    height = top + _lines(len(names)) * (HEIGHT + MARGIN)
    parts = [f'<rect width="{width}" height="{height}" fill="{PAPER}"/>']
    parts.append(f'<text x="{width / 2}" y="20" font-size="15" text-anchor="middle">{html.escape(title)}</text>')
    for number, (label, colour) in enumerate(zip(labels, COLOURS * len(labels), strict=False)):
        x, y = _place(number, TITLE + 12, LABEL)
        parts.append(f'<text x="{x + 20}" y="{y}" fill="{colour}">{html.escape(label)}</text>')
    for number, name in enumerate(names):
        x, y = _place(number, top, HEIGHT + MARGIN)
        drawn = "".join(panel_parts(runs, name, label_of(name), named=False))
        parts.append(f'<g transform="translate({x} {y})">{drawn}</g>')
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} color="{INK}" {FONT}>'
    Path(path).write_text("\n".join([head, *parts, "</svg>\n"]), encoding="utf-8")
    return Path(path)


def _lines(count: int) -> int:
    return -(-count // COLUMNS)


def _place(number: int, top: int, height: int) -> tuple[int, int]:
    """Where the panel or label of this number stands."""
    line, column = divmod(number, COLUMNS)
    return MARGIN + column * (WIDTH + MARGIN), top + line * height
