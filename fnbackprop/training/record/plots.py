"""Which metrics of a run are drawn, on which scale, and through which points."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..run_folder import MetricsRow
from ..step.step_metrics import LAYER_PREFIX, WATCHED
from .metrics import curve

PANELS = {
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "update_ratio": "update / weight",
    "learning_rate": "learning rate",
}
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")
EVALUATED = "evaluate/"
MOST_PANELS = 12
POINTS = 400  # in a line; longer series are averaged in that many bins, with a band from minimum to maximum
MOST_LINEAR = 4  # a metric that grows or falls by more has a logarithmic scale
BROKEN = "#d62728"

Runs = Mapping[str, Sequence[MetricsRow]]


def panels_of(runs: Runs) -> list[str]:
    """The metrics that are drawn: those of every run, then those of evaluations and of the loss that make a curve."""
    names = dict.fromkeys(itertools.chain.from_iterable(itertools.chain.from_iterable(runs.values())))
    standard = [name for name in PANELS if name in names]
    others = [name for name in names if name not in (*PANELS, "step") and not name.startswith((LAYER_PREFIX, WATCHED))]
    curves = [name for name in others if any(len(curve(rows, name)[0]) > 1 for rows in runs.values())]
    evaluated = sorted(curves, key=lambda name: not name.startswith(EVALUATED))
    return [*standard, *evaluated][:MOST_PANELS]


def label_of(name: str) -> str:
    """A metric in words; one of `evaluate` says so, for the loss may have one of the same name.

    >>> label_of("update_ratio"), label_of("evaluate/test_loss")
    ('update / weight', 'test loss (evaluate)')
    """
    words = name.removeprefix(EVALUATED).replace("_", " ")
    return f"{words} (evaluate)" if name.startswith(EVALUATED) else PANELS.get(name, words)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether a metric of these values has a logarithmic scale; zeros, as of a warmup's first step, may be there."""
    shown = [value for value in values if math.isfinite(value)]
    positive = [value for value in shown if value > 0]
    return bool(positive) and min(shown) >= 0 and max(positive) > MOST_LINEAR * min(positive)


def summarise(
    steps: Sequence[int], values: Sequence[float], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(middle step, mean, lowest, highest) of at most `points` parts of a curve that follow one another.

    >>> [part.tolist() for part in summarise([0, 1, 2, 3], [1.0, 3.0, 5.0, 5.0], points=2)]
    [[0.5, 2.5], [2.0, 5.0], [1.0, 5.0], [3.0, 5.0]]
    """
    width = -(-len(steps) // points) or 1
    starts = np.arange(0, len(steps), width)
    if not len(starts):
        return (np.zeros(0),) * 4
    place, array = np.asarray(steps, float), np.asarray(values, float)
    sizes = np.diff([*starts, len(steps)])
    means = [np.add.reduceat(part, starts) / sizes for part in (place, array)]
    return *means, np.minimum.reduceat(array, starts), np.maximum.reduceat(array, starts)
