"""A trace as one HTML page that needs no other file: the source with its heat, the depth, the steps of loops."""

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ...pages import render
from ..records import Record
from ..statistics import rms
from . import text
from .rows import Row

TEMPLATE = Path(__file__).with_name("trace.html")
CONTEXT = 3  # lines shown before and after those that have equations
MASK = 1e6  # times the usual size: a mask by large numbers, which is no part of the depth profile
MOST_LOOP_LINES, MOST_STEPS = 20, 256
LABEL, WIDTH, ROW = 260, 640, 18  # of a loop's map


def page(trace: Any) -> str:
    """The page of a `Trace`."""
    rows, blame = trace.rows, trace.blame()
    return render(
        TEMPLATE,
        title=f"trace of {trace.name}",
        name=trace.name,
        ok=trace.ok,
        verdict=text.verdict(trace),
        findings=list(map(str, trace.findings)),
        notes=trace.notes,
        worst=text.worst(rows),
        sources=_sources(rows, None if blame is None else blame.place),
        profile=_profile(trace.records),
        maps=_loop_maps(trace.records),
        gradients=_tree(trace.gradients, trace.tied),
        heads=text.HEAD,
        table=[{"cells": text.cells(row), "bad": row.bad} for row in rows],
    )


def fragment(trace: Any) -> str:
    """The page inside a frame, for a notebook, whose own style stays what it is."""
    return f'<iframe srcdoc="{escape(page(trace))}" style="width:100%;height:40em;border:0"></iframe>'


class Heat:
    """Sizes as shares of the range of their logarithms, from 0 (the smallest) to 1."""

    def __init__(self, sizes: Iterable[float]):
        logs = [math.log10(size) for size in sizes if 0 < size < math.inf]
        self.low, self.high = (min(logs), max(logs)) if logs else (0.0, 0.0)

    def of(self, size: float) -> float:
        if not 0 < size < math.inf:
            return 0.0
        span = self.high - self.low
        return round((math.log10(size) - self.low) / span, 3) if span > 0 else 1.0


def _sources(rows: Sequence[Row], blamed: Any) -> list[dict[str, Any]]:
    """Of each file that can be read, the lines from the first that has equations to the last."""
    files: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.place.file:
            files.setdefault(row.place.file, {})[row.place.line] = row
    heat = Heat(row.cotangent.high for row in rows)
    found = []
    for file, lines in files.items():
        try:
            written = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        first, last = max(1, min(lines) - CONTEXT), min(len(written), max(lines) + CONTEXT)
        shown = []
        for number in range(first, last + 1):
            is_blamed = blamed is not None and (blamed.file, blamed.line) == (file, number)
            shown.append(_source_line(number, written[number - 1], lines.get(number), heat, is_blamed))
        found.append({"name": Path(file).name, "lines": shown})
    return found


def _source_line(number: int, written: str, row: Row | None, heat: Heat, is_blamed: bool) -> dict[str, Any]:
    line = {"number": number, "text": written, "cotangent": "", "value": "", "heat": 0, "title": ""}
    classes = ["blamed"] if is_blamed else []
    if row is not None:
        names = zip(text.HEAD, text.cells(row), strict=True)
        line["title"] = ", ".join(f"{name} {cell}" for name, cell in names if cell != "-" and name != "line")
        line["cotangent"], line["value"] = _size(row.cotangent.high), _size(row.value.high)
        line["heat"] = heat.of(row.cotangent.high)
        classes += ["nonfinite"] if row.bad else []
    return {**line, "classes": " ".join(classes)}


def _size(x: float) -> str:
    return "" if math.isnan(x) else text.size_text(x)


def _profile(records: Sequence[Record]) -> dict[str, Any] | None:
    """The curves of the sizes of values and cotangents, in the order of the forward walk, on one logarithmic axis."""
    known = [record for record in records if not record.entered]
    kinds = {
        "forward": [max((seen.size for seen in record.values), default=0.0) for record in known],
        "backward": [max((seen.size for seen in record.cotangents), default=0.0) for record in known],
    }
    points = {kind: [(i, x) for i, x in enumerate(sizes) if 0 < x < math.inf] for kind, sizes in kinds.items()}
    usual = statistics.median(x for _, x in points["forward"] or [(0, 1.0)])
    points["forward"] = [(i, x) for i, x in points["forward"] if x < MASK * usual]
    if len(points["backward"]) < 2:
        return None
    heat, last = Heat(size for found in points.values() for _, size in found), max(len(known) - 1, 1)

    def height(share: float) -> float:
        return 210 - 200 * share

    curves = [
        {"kind": kind, "points": " ".join(f"{50 + 840 * i / last:.1f},{height(heat.of(x)):.1f}" for i, x in found)}
        for kind, found in points.items()
    ]
    ticks = [
        {"y": f"{height(share) + 4:.1f}", "text": f"{heat.low + share * (heat.high - heat.low):+.1f}"}
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    return {"curves": curves, "ticks": ticks}


def _loop_maps(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Of each loop, the sizes of the cotangents of its lines at each of its steps."""
    loops: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if len(record.cotangents) > 1 and not record.entered:
            loops.setdefault(record.path, []).append(record)
    maps = (_loop_map(path, inside) for path, inside in loops.items())
    return [found for found in maps if found is not None]


def _loop_map(path: tuple[str, ...], records: Sequence[Record]) -> dict[str, Any] | None:
    steps = sorted({seen.iteration for record in records for seen in record.cotangents})[-MOST_STEPS:]
    lines: dict[str, dict[Any, float]] = {}
    for record in records:
        line = lines.setdefault(str(record.place), {})
        for seen in record.cotangents:
            line[seen.iteration] = max(line.get(seen.iteration, 0.0), seen.size)
    lines = dict(sorted(lines.items(), key=lambda item: -max(item[1].values()))[:MOST_LOOP_LINES])
    heat = Heat(size for line in lines.values() for size in line.values())
    if len(steps) < 2 or heat.high == heat.low == 0:
        return None
    width = WIDTH / len(steps)
    rows = [
        {
            "y": ROW * i,
            "label": label if len(label) < 40 else label[:39] + "…",
            "cells": [
                {
                    "x": f"{LABEL + width * j:.1f}",
                    "heat": 0.05 + 0.95 * heat.of(line.get(step, 0.0)),
                    "step": ", ".join(map(str, step)),
                    "size": _size(line.get(step, 0.0)),
                }
                for j, step in enumerate(steps)
            ],
        }
        for i, (label, line) in enumerate(lines.items())
    ]
    shown = {"low": f"{heat.low:.1f}", "high": f"{heat.high:.1f}", "width": f"{max(width - 0.5, 0.5):.1f}"}
    return {"path": " / ".join(path) or "loop", "height": ROW * len(rows), "rows": rows, **shown}


class Leaf(NamedTuple):
    """A leaf of the gradient on the page; `tied`: the other leaves that are the same array."""

    id: str
    path: str
    text: str
    tied: list[Any]


def _tree(gradients: dict[str, Any], tied: dict[str, Sequence[str]]) -> dict[str, Any]:
    """The leaves of the gradient as nested dicts, by the parts of their paths."""
    tree: dict[str, Any] = {}
    leaves = {
        path: Leaf(f"leaf-{i}", path or "the argument", f"{g.dtype}{list(g.shape)}, rms {rms(g):.3g}", [])
        for i, (path, g) in enumerate(gradients.items())
    }
    for path, leaf in leaves.items():
        leaf.tied.extend(leaves[other] for other in tied.get(path, ()))
        *folders, name = path.split("/") if path else ["the argument"]
        node = tree
        for folder in folders:
            inner = node.setdefault(folder, {})
            node = inner if isinstance(inner, dict) else node
        node[name] = leaf
    return tree
