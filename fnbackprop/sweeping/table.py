"""The outcome of a sweep as rows, the best first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..columns import aligned
from .points import Point, SweepError
from .processes import SweptRun


@dataclass(frozen=True)
class Row:
    """One run: its options, its result (NaN if there is none yet), its status, and its report."""

    point: Point
    result: float
    status: str
    report: Path | None


def has_metric(metrics: Mapping[str, Any], metric: str) -> bool:
    return metric in metrics or f"evaluate/{metric}" in metrics


def rows_of(runs: Sequence[SweptRun], metric: str, mode: Literal["min", "max"]) -> list[Row]:
    """A row for each run, the best by the metric's last value first, and those without one last.

    Raises:
      SweepError: no run has this metric, though some have others.
    """
    found, known = [], {}
    evaluated = metric if metric == "loss" else f"evaluate/{metric}"  # the loss's own metric of this name comes second
    for run in runs:
        metrics, folder = run.last_metrics(), run.run
        known |= {name: value for name, value in metrics.items() if name != "step"}
        result = float(metrics.get(evaluated, metrics.get(metric, math.nan)))
        found.append(Row(run.point, result, run.facts()["status"], None if folder is None else folder.report))
    if known and not has_metric(known, metric):
        names = ", ".join(name.removeprefix("evaluate/") for name in known if not name.startswith("gradient_norm/"))
        raise SweepError(f"no run has the metric {metric!r}; they have {names}.")
    sign = 1 if mode == "min" else -1
    return sorted(found, key=lambda row: (math.isnan(row.result), sign * row.result))


def as_text(rows: Sequence[Row], metric: str) -> str:
    """The rows in columns."""
    options = list(rows[0].point)
    body = [(*row.point.values(), "" if math.isnan(row.result) else f"{row.result:.4g}", row.status) for row in rows]
    return "\n".join(aligned([(*options, metric, "status"), *body], right=range(len(options) + 1)))
