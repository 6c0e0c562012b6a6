"""The graph of a scalar program: its steps from left to right, a local derivative on each edge."""

from collections.abc import Sequence
from html import escape
from typing import Any

COLUMN, ROW, RADIUS, MARGIN = 170, 92, 24, 46
WIDTH_OF_NAMES = 30


def graph_svg(chain: Any) -> str:
    """A `ChainRule` as SVG. Values stand above the steps, cotangents, which come back from the right, below them."""
    nodes = _nodes(chain.steps)
    columns = max((column for column, _ in nodes.values()), default=0) + 1
    rows = max((row for _, row in nodes.values()), default=0) + 1
    places = {key: (MARGIN + WIDTH_OF_NAMES + COLUMN * c, MARGIN + ROW * r) for key, (c, r) in nodes.items()}
    parts = [_edges(chain.steps, places)]
    for key, (x, y) in places.items():
        if isinstance(key, int):
            step = chain.steps[key]
            parts.append(_node(x, y, step.primitive, step.value, step.cotangent))
        else:
            parts.append(_argument(x, y, key, chain.gradients.get(key)))
    width, height = 2 * (MARGIN + WIDTH_OF_NAMES) + COLUMN * (columns - 1), 2 * MARGIN + ROW * (rows - 1)
    style = f"width:100%;max-width:{width}px;height:auto;font:12px system-ui,sans-serif"
    return (
        f'<svg viewBox="0 0 {width} {height}" style="{style}" role="img" aria-label="the graph of the chain rule">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def number_text(x: float) -> str:
    """A number in four digits."""
    return f"{x:.4g}"


def derivative_text(x: float) -> str:
    """A local derivative; one that is not known, as a question mark."""
    return "?" if x != x else number_text(x)


def _nodes(steps: Sequence[Any]) -> dict[int | str, tuple[int, int]]:
    """(column, row) of each argument and step: a step stands right of all its operands."""
    arguments = dict.fromkeys(source for step in steps for source in step.operands if isinstance(source, str))
    columns: dict[int | str, int] = dict.fromkeys(arguments, 0)
    for i, step in enumerate(steps):
        columns[i] = 1 + max((columns[source] for source in step.operands), default=0)
    filled: dict[int, int] = {}
    nodes = {}
    for key, column in columns.items():
        nodes[key] = column, filled.get(column, 0)
        filled[column] = filled.get(column, 0) + 1
    return nodes


def _edges(steps: Sequence[Any], places: dict[int | str, tuple[float, float]]) -> str:
    """Lines from operands to steps; where one goes past a step between them, it bends."""
    parts = []
    for i, step in enumerate(steps):
        x2, y2 = places[i]
        for which, (source, derivative) in enumerate(zip(step.operands, step.derivatives, strict=True)):
            x1, y1 = places[source]
            twice = step.operands[:which].count(source)
            bend = 22 * twice + (26 if x2 - x1 > COLUMN and y1 == y2 else 0)
            middle, height = (x1 + x2) / 2, (y1 + y2) / 2 - bend
            line = f"M {x1 + RADIUS} {y1} Q {middle} {height - bend} {x2 - RADIUS} {y2}"
            parts.append(f'<path d="{line}" fill="none" stroke="currentColor" stroke-opacity="0.45"/>')
            at = x1 + 0.62 * (x2 - x1), y1 + 0.62 * (y2 - y1) - bend - 5
            parts.append(_text(*at, number_text(derivative), "font-weight:600"))
    return "\n".join(parts)


def _node(x: float, y: float, name: str, value: float, cotangent: float) -> str:
    circle = f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="none" stroke="currentColor"/>'
    above, below = (
        _text(x, y - RADIUS - 4, number_text(value)),
        _text(x, y + RADIUS + 13, f"↩ {number_text(cotangent)}"),
    )
    short = name if len(name) < 9 else f"{name[:7]}…"
    return circle + _text(x, y + 4, short, "font-size:10px") + above + below


def _argument(x: float, y: float, name: str, gradient: float | None) -> str:
    told = "" if gradient is None else _text(x, y + 16, f"↩ {number_text(gradient)}")
    return _text(x, y + 2, name, "font-style:italic") + told


def _text(x: float, y: float, text: str, style: str = "") -> str:
    """Text around a point, in the colour of what is around the graph."""
    where = f'x="{x:.0f}" y="{y:.0f}"'
    return f'<text {where} text-anchor="middle" fill="currentColor" style="{style}">{escape(text)}</text>'
