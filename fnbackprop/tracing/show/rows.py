"""The records of a trace as rows of a table: one for each line of the user's, or one for each equation."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..records import Place, Record, Seen

LINES = re.compile(r"(?P<file>[^:]+)(?::(?P<first>\d+)(?:-(?P<last>\d+))?)?")


class Range(NamedTuple):
    """The sizes (root mean squares) of several arrays: median, smallest, largest. NaN where there are none."""

    median: float
    low: float
    high: float


class Row(NamedTuple):
    """Some equations.

    Attributes:
      place: the line of the first. primitives: their names, each once. count: how many values were seen.
      number: of the first. shapes: of its outputs. path: of the bodies around it. name: by `fb.name`.
      value, cotangent: the sizes. gain: of what is passed on over what came in. bad: how many arrays are not finite.
      saturated: the share of the elements of activations that are saturated; NaN where there is no activation.
    """

    place: Place
    primitives: tuple[str, ...]
    count: int
    number: int
    shapes: tuple[str, ...]
    path: tuple[str, ...]
    name: str | None
    value: Range
    cotangent: Range
    gain: Range
    bad: int
    saturated: float = np.nan

    @property
    def total_gain(self) -> float:
        """The gain from the loss to here, as log10: the loss's own cotangent is 1. NaN where none comes."""
        return math.log10(self.cotangent.median) if self.cotangent.median > 0 else np.nan


class LinesError(ValueError):
    """What was given as lines names none, or none with an equation."""


def rows_of(records: Iterable[Record]) -> list[Row]:
    """A row for each line."""
    lines: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        if not record.entered:
            lines.setdefault((record.place.file, record.place.line), []).append(record)
    return [row_of(group) for group in lines.values()]


def table_rows(records: Sequence[Record], lines: str | None) -> list[Row]:
    """The rows of a table; with `lines`, one for each equation there.

    Raises:
      LinesError: it names no lines.
    """
    if lines is None:
        return rows_of(records)
    wanted = LINES.fullmatch(lines)
    if wanted is None:
        raise LinesError(f"lines must be like 'model.py:40-60', 'model.py:40' or 'model.py', not {lines!r}.")
    first = int(wanted["first"] or 0)
    last = int(wanted["last"] or first or 1 << 30)
    name = wanted["file"]

    def is_there(place: Place) -> bool:
        return (place.file == name or Path(place.file).name == Path(name).name) and first <= place.line <= last

    return [row_of([r]) for r in records if is_there(r.place) and not r.entered]


def row_of(records: Sequence[Record]) -> Row:
    first = records[0]
    came = [size for r in records for size in _sizes(r.cotangents)]
    gains = [b / a for r in records for a, b in zip(_sizes(r.cotangents), _sizes(r.passed_on), strict=True) if a and b]
    seen = [
        s
        for r in records
        for group in (r.values, r.cotangents, r.passed_on)
        for one in group
        for s in one.of
        if s is not None
    ]
    return Row(
        place=first.place,
        primitives=tuple(dict.fromkeys(r.primitive for r in records)),
        count=sum(len(r.values) for r in records),
        number=first.number,
        shapes=first.shapes,
        path=first.path,
        name=next((r.name for r in records if r.name), None),
        value=_range([size for r in records for size in _sizes(r.values)]),
        cotangent=_range(came),
        gain=_range(gains),
        bad=sum(bool(s.bad) for s in seen),
        saturated=float(np.mean(shares)) if (shares := [share for r in records for share in r.saturated]) else np.nan,
    )


def _sizes(seen: Iterable[Seen]) -> list[float]:
    return [one.size for one in seen]


def _range(sizes: Sequence[float]) -> Range:
    if not len(sizes):
        return Range(np.nan, np.nan, np.nan)
    return Range(float(np.median(sizes)), float(min(sizes)), float(max(sizes)))
