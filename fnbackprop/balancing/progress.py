"""Whether a loss still falls, in words."""

import math
from collections.abc import Sequence

import numpy as np

from .estimates import quantile

WINDOW = 500


def progress_in_words(losses: Sequence[float], window: int = WINDOW) -> str:
    """One line on the last steps: converged, falling, rising or diverged; empty if there are too few.

    The loss is compared between the two halves of the window by the medians of their parts, whose spread about a line
    is its noise: a spike changes nothing.

    >>> progress_in_words([1.0 + 0.1 * (-1) ** i for i in range(1000)])
    'converged: the loss fell by less than its noise over the last 500 steps'
    """
    if losses and not math.isfinite(losses[-1]):
        return "diverged: the loss is not finite"
    last = np.asarray(losses[-window:], float)
    if len(last) < 40:
        return ""
    parts = np.array([np.median(part) for part in np.array_split(last, 10)])
    before, after = parts[:5], parts[5:]
    line = np.polyval(np.polyfit(np.arange(10), parts, 1), np.arange(10))
    noise = math.sqrt(float(np.sum((parts - line) ** 2)) / 8)
    fall, error = float(before.mean() - after.mean()), noise * math.sqrt(2 / 5) * quantile(8)
    over = f"over the last {len(last)} steps"
    if abs(fall) <= max(error, 1e-6 * abs(float(after.mean()))):
        return f"converged: the loss fell by less than its noise {over}"
    if fall < 0:
        return f"diverging: the loss rose from {before.mean():.4g} to {after.mean():.4g} {over}"
    return f"still falling: the loss fell from {before.mean():.4g} to {after.mean():.4g} {over}"
