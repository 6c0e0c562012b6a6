"""Gauges of a run that was trained with `balance_every`: how far its steps went, and what that says of the rate."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fnbackprop.balancing.verdict import HIGH_OVERSHOOT, LOW_OVERSHOOT, LOW_RATIO

from ..run_folder import MetricsRow
from .metrics import curve

LAST = 10  # measurements whose median is shown


class Gauge(NamedTuple):
    """A metric, what it is called, its whole range, the part of it that is balanced, and words for below and above."""

    metric: str
    label: str
    range: tuple[float, float]
    balanced: tuple[float, float]
    words: tuple[str, str, str]


GAUGES = (
    Gauge(
        *("overshoot", "overshoot of a step (alpha)", (-1.0, 2.0), (LOW_OVERSHOOT, HIGH_OVERSHOOT)),
        (
            "short steps: the rate may be too low",
            "between nowhere and uphill",
            "steps end uphill: the rate is too high",
        ),
    ),
    Gauge(
        *("rate_over_critical", "rate over critical rate along the step (rho)", (0.0, 1.5), (LOW_RATIO, 1.0)),
        ("far below the critical rate", "below the critical rate", "above the critical rate"),
    ),
)


def gauges(metrics: Mapping[str, Sequence[MetricsRow]]) -> list[str]:
    """HTML: a gauge for each concern and run that was measured, told in words beside it; nothing if none was."""
    lines = []
    for label, rows in metrics.items():
        names = dict.fromkeys(name for row in rows for name in row)
        found = ((gauge, name) for gauge in GAUGES for name in names if name.rpartition("/")[2] == gauge.metric)
        several = f"{label}: " if len(metrics) > 1 else ""
        lines += [_line(gauge, rows, name, several) for gauge, name in found]
    return ["<h2>Is the learning rate balanced?</h2>", *filter(None, lines)] if any(lines) else []


def _line(gauge: Gauge, rows: Sequence[MetricsRow], name: str, label: str) -> str:
    known = [value for value in curve(rows, name)[1] if math.isfinite(value)][-LAST:]
    if not known:
        return ""
    value, (low, high) = float(np.median(known)), gauge.balanced
    words = gauge.words[0 if value < low else 2 if value > high else 1]
    part = name.removesuffix(gauge.metric)
    whole = f'min="{gauge.range[0]:g}" max="{gauge.range[1]:g}"'
    balanced = f'low="{low:g}" high="{high:g}" optimum="{(low + high) / 2:g}"'
    return (
        f'<p>{label}{part}{gauge.label}: <meter {whole} {balanced} value="{value:.4g}"></meter> {value:.3g}, {words} '
        f"(median of the last {len(known)} measurements; balanced from {low:g} to {high:g})</p>"
    )
