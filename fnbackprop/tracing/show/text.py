"""A trace as text: the verdict first, then the worst lines, then the table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...columns import aligned
from ..statistics import rms
from .rows import Range, Row

MOST_ROWS = 40
WORST = 3
HEAD = ("line", "primitives", "seen", "value", "saturated", "cotangent", "gain", "log10 from loss")
NUMBERS = range(2, len(HEAD))  # the columns of numbers


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
    sizes = [rms(g) for g in trace.gradients.values()]
    value = float(np.real(np.asarray(trace.value)))
    largest = f"gradients of {len(sizes)} leaves from {min(sizes):.3g} to {max(sizes):.3g} (rms)" if sizes else ""
    how = (
        " as one compiled program (detailed=True, --detailed, looks at each equation by itself)"
        if trace.compiled
        else ""
    )
    return f"{trace.name}: all finite{how}. Value {value:.6g}; {largest}."


def _more(count: int) -> list[str]:
    return [f"... and {count - MOST_ROWS} more lines: .table(lines='model.py:40-60')"] if count > MOST_ROWS else []


def _worst(row: Row) -> str:
    arrays = "1 array is" if row.bad == 1 else f"{row.bad} arrays are"
    bad = f"{arrays} not finite" if row.bad else f"cotangent {size_text(row.cotangent.high)}"
    return f"{row.place}: {bad}" + (f"    {row.place.text}" if row.place.text else "")


def table(rows: Sequence[Row]) -> str:
    """Rows in columns."""
    return "\n".join(aligned([HEAD, *map(cells, rows)], right=NUMBERS))


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    names = ", ".join(row.primitives[:3]) + (" ..." if len(row.primitives) > 3 else "")
    name = f" [{row.name}]" if row.name else ""
    flag = f" !{row.bad}" if row.bad else ""
    value, cotangent, gain = map(_spread, (row.value, row.cotangent, row.gain))
    saturated = "-" if np.isnan(row.saturated) else f"{row.saturated:.0%}"
    total = "-" if np.isnan(row.total_gain) else f"{row.total_gain:+.1f}"
    return str(row.place) + flag, names + name, str(row.count), value, saturated, cotangent, gain, total


def _spread(range_: Range) -> str:
    """The median, and the range where it is wide."""
    if np.isnan(range_.median):
        return "-"
    if range_.high > 2 * range_.low:
        return f"{size_text(range_.median)} [{size_text(range_.low)}, {size_text(range_.high)}]"
    return size_text(range_.median)


def size_text(x: float) -> str:
    """A size in two digits."""
    return f"{x:.2g}"
