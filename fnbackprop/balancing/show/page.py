"""A balance as one HTML page that needs no other file: the verdict, the evidence, the branches and the range test."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...pages import render
from ..facts import Facts, LayerFacts
from ..verdict import FINE, Verdict
from . import text

TEMPLATE = Path(__file__).with_name("balance.html")
COLOURS = ("#1f77b4", "#17a2a2", "#2ca02c", "#d98300", "#c62828", "#8c5fbf", "#8c6d4f")
LEFT, RIGHT, TOP, BOTTOM = 60, 780, 10, 240  # of a chart
LINE = 13  # between two labels
MOST_LINEAR = 4  # a loss that changes by more has a logarithmic scale


def page(balance: Any) -> str:
    """The page of a `Balance`."""
    facts: Facts = balance.facts
    return render(
        TEMPLATE,
        title=f"balance: {facts.name}",
        name=facts.name,
        where="at initialisation" if facts.step == 0 else f"at step {facts.step}",
        verdict=balance.verdict,
        kind=_kind(balance.verdict),
        sentence=balance.sentence,
        suggestion=text.suggestion(balance),
        evidence=text.evidence(facts),
        charts=list(filter(None, (_branches(facts), _range(facts)))),
        layers=list(map(_layer, facts.layers)),
        evened=text.evened(facts.layers),
        notes=text.notes(facts),
        cost=text.cost(facts),
    )


def _kind(verdict: Verdict) -> str:
    bad = (Verdict.DIVERGING, Verdict.OVERSHOOTING, Verdict.CANNOT_JUDGE)
    return "good" if verdict in FINE else "bad" if verdict in bad else "warn"


def _layer(layer: LayerFacts) -> tuple[str, str, str, str]:
    share = "-" if layer.share is None else f"{layer.share:.1%}"
    multiplier = "-" if layer.multiplier is None else f"{layer.multiplier:.2g}"
    return layer.name, text.ratio_of(layer), share, multiplier


def _branches(facts: Facts) -> dict[str, Any] | None:
    """The losses of the next steps, a curve for each multiple of the rate; the rate itself is drawn whole."""
    if not facts.branches:
        return None
    curves = [(f"x {branch.factor:.3g}", branch.losses, branch.factor != 1.0) for branch in facts.branches]
    longest = max(len(branch.losses) for branch in facts.branches)
    steps = np.arange(facts.step, facts.step + longest)
    first = float(np.median([branch.losses[0] for branch in facts.branches]))
    return _chart("The next steps at multiples of the rate", curves, steps, "step", most=3 * abs(first))


def _range(facts: Facts) -> dict[str, Any] | None:
    """The losses while the rate grew, a curve for each order of the data."""
    if facts.range_test is None:
        return None
    test = facts.range_test
    curves = [(f"order {i + 1}", row, False) for i, row in enumerate(test.losses)]
    unit = 1.0 if facts.rate is None else facts.rate
    across = "multiple of the rate" if facts.rate is None else "learning rate"
    first = float(np.nanmedian(test.losses[:, 0]))
    return _chart("While the rate grows", curves, test.factors * unit, across, most=3 * abs(first))


def _chart(
    title: str, curves: Sequence[tuple[str, np.ndarray, bool]], across: np.ndarray, name: str, most: float
) -> dict[str, Any] | None:
    """A chart of (label, values, dashed); a value that is not finite, or above `most`, ends its curve at the top."""
    shown = [np.where(np.isfinite(values), np.minimum(values, most), most) for _, values, _ in curves]
    every = np.concatenate(shown)
    low, high = float(every.min()), float(every.max())
    if not low < high:
        return None
    scale = np.log if low > 0 and high > MOST_LINEAR * low else np.asarray
    bottom, top = float(scale(low)), float(scale(high))
    lines, taken = [], []
    for (label, values, dashed), y, colour in zip(curves, shown, COLOURS * len(curves), strict=False):
        broken = np.flatnonzero(~np.isfinite(values) | (values > most))
        y = y[: broken[0] + 1] if len(broken) else y
        height = BOTTOM - (BOTTOM - TOP) * (scale(y) - bottom) / (top - bottom)
        place = LEFT + (RIGHT - LEFT) * np.arange(len(y)) / max(len(across) - 1, 1)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(place, height, strict=True))
        taken.append(_free(float(height[-1]) + 4, taken))
        lines.append({"points": points, "colour": colour, "dashed": dashed, "label": label, "y": f"{taken[-1]:.1f}"})
    ends = {"first": f"{across[0]:.3g}", "last": f"{across[-1]:.3g}", "across": name}
    return {"title": title, "lines": lines, "low": f"{low:.3g}", "high": f"{high:.3g}", **ends}


def _free(wanted: float, taken: Sequence[float]) -> float:
    """The nearest place for a label at which no other stands."""
    for distance in np.arange(0, 20 * LINE):
        for place in (wanted + distance, wanted - distance):
            if place >= TOP and all(math.fabs(place - other) >= LINE for other in taken):
                return place
    return wanted
