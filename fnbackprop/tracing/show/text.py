"""A trace as text: the verdict first, then the worst lines, then the table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .rows import Range, Row

MOST_ROWS = 40
WORST = 3
HEAD = ("line", "primitives", "seen", "value", "cotangent", "gain")


def summary(trace: Any) -> str:
    """All of a trace."""
    rows = trace.rows
    parts = [verdict(trace), *map(str, trace.findings), *trace.notes]
    if found := worst(rows):
        bad = any(row.bad for row in rows)
        parts += ["", "not finite most often:" if bad else "largest cotangents:", *(f"  {line}" for line in found)]
    return "\n".join([*parts, "", table(rows[:MOST_ROWS]), *_more(len(rows))])


def worst(rows: Sequence[Row]) -> list[str]:
    """The lines that are not finite most often; if all are finite, those of the largest cotangents."""
    found = sorted((r for r in rows if r.bad), key=lambda r: -r.bad)
    found = found or sorted((r for r in rows if r.cotangent.high > 0), key=lambda r: -r.cotangent.high)
    return list(map(_worst, found[:WORST]))


def verdict(trace: Any) -> str:
    """One sentence, or blame's."""
    blame = trace.blame()
    if blame is not None:
        return f"{trace.name}: {blame.sentence}"
    sizes = [_rms(g) for g in trace.gradients.values()]
    value = float(np.real(np.asarray(trace.value)))
    largest = f"gradients of {len(sizes)} leaves from {min(sizes):.3g} to {max(sizes):.3g} (rms)" if sizes else ""
    return f"{trace.name}: all finite. Value {value:.6g}; {largest}."


def _rms(x: Any) -> float:
    x = np.abs(np.asarray(x).astype(complex))
    return float(np.sqrt(np.mean(x * x))) if x.size else 0.0


def _more(count: int) -> list[str]:
    return [f"... and {count - MOST_ROWS} more lines: .table(lines='model.py:40-60')"] if count > MOST_ROWS else []


def _worst(row: Row) -> str:
    bad = f"{row.bad} arrays are not finite" if row.bad else f"cotangent {_size(row.cotangent.high)}"
    return f"{row.place}: {bad}" + (f"    {row.place.text}" if row.place.text else "")


def table(rows: Sequence[Row], folded: bool = True) -> str:
    """Rows in columns; `folded`: several equations may stand in one, with median and range."""
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    left = (0, 1)
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    names = ", ".join(row.primitives[:3]) + (" ..." if len(row.primitives) > 3 else "")
    name = f" [{row.name}]" if row.name else ""
    flag = f" !{row.bad}" if row.bad else ""
    sizes = map(_spread, (row.value, row.cotangent, row.gain))
    return str(row.place) + flag, names + name, str(row.count), *sizes


def _spread(range_: Range) -> str:
    """The median, and the range where it is wide."""
    if np.isnan(range_.median):
        return "-"
    if range_.high > 2 * range_.low:
        return f"{_size(range_.median)} [{_size(range_.low)}, {_size(range_.high)}]"
    return _size(range_.median)


def _size(x: float) -> str:
    return f"{x:.2g}"
