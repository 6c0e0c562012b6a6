"""One-sided differences along a direction: is the function smooth here, or is there a kink, a jump, an edge?"""

import math
from typing import NamedTuple

import numpy as np

from ..results import Verdict

SIGNIFICANT = 20.0  # times rounding, for a difference of slopes to mean anything


class Slopes(NamedTuple):
    """A function's values on both sides of a point, along one direction.

    Attributes:
      lengths: (steps,), each half of the one before.
      here: the value at the point.
      ahead, behind: (steps,), the values at plus and minus each length.
      rounding: the error of one value.
    """

    lengths: np.ndarray
    here: float
    ahead: np.ndarray
    behind: np.ndarray
    rounding: float

    @property
    def central(self) -> np.ndarray:
        return (self.ahead - self.behind) / (2 * self.lengths)

    @property
    def right(self) -> np.ndarray:
        return (self.ahead - self.here) / self.lengths

    @property
    def left(self) -> np.ndarray:
        return (self.here - self.behind) / self.lengths


def shape_of(slopes: Slopes, threshold: float) -> tuple[Verdict, str]:
    """PASS for a smooth function, else what it is here and why.

    The slopes from the right and from the left differ by a gap that falls as h if the function is smooth, stays if it
    has a kink, and grows as 1/h if it jumps; between, the slope is unbounded.

    Args:
      threshold: gaps below it do not matter.
    """
    if not math.isfinite(slopes.here):
        return Verdict.NON_FINITE, "the function itself is not finite here"
    with np.errstate(invalid="ignore", divide="ignore"):
        ahead, behind = np.isfinite(slopes.ahead), np.isfinite(slopes.behind)
        if ahead.all() != behind.all() and not (behind if ahead.all() else ahead).any():
            return Verdict.DOMAIN_EDGE, "the function is finite on one side of this point alone"
        if not (ahead.all() and behind.all()):
            return Verdict.DOMAIN_EDGE, "the function is finite at this point, but not on both sides of it"
        noise = SIGNIFICANT * slopes.rounding / slopes.lengths
        gap = slopes.right - slopes.left
        matters = np.abs(gap[-1]) > max(noise[-1], threshold)
        power = _power(gap) if matters else math.nan
        grown = _power(slopes.right) if np.abs(slopes.right[-1]) > noise[-1] else math.nan
    if matters and abs(power) <= 0.2:
        return (
            Verdict.KINK,
            f"the slope is {slopes.left[-1]:.6g} from one side and {slopes.right[-1]:.6g} from the other",
        )
    if matters and power <= -0.8:
        return Verdict.JUMP, f"the function jumps by {abs(gap[-1]) * slopes.lengths[-1]:.3g} here"
    if (matters and power < -0.2) or grown < -0.2:
        rate = min(power if matters else 0.0, grown)
        return Verdict.UNBOUNDED, f"the slope grows as h^{rate:.2g} when the step h shrinks"
    return Verdict.PASS, ""


def _power(values: np.ndarray) -> float:
    """By which power of the step they fall, from the last four; NaN if they do not go steadily."""
    tail = np.abs(values[-4:])
    if not (tail > 0).all():
        return math.nan
    powers = np.log2(tail[:-1] / tail[1:])
    return float(np.mean(powers)) if np.ptp(powers) < 0.3 else math.nan


def best_step(slopes: np.ndarray, lengths: np.ndarray, rounding: float) -> tuple[int, float]:
    """The step whose differences are the surest, and how far from the truth they may be.

    A smooth function's differences converge as h**2, those of one with kinks (ReLU) as an irregular h: so what is
    allowed for a step is three times the widest distance, in any direction, from the differences of the two wider and
    the two narrower steps; and on top of it the rounding of the function's values. (Seen with a ReLU network in
    float32, where it is hardest: 1,600 comparisons, the error at most 0.91 of what is allowed.)

    Args:
      slopes: (directions, steps). lengths: (steps,). rounding: the error of one value of the function.
    """
    steps = slopes.shape[1]
    spread = [np.max(np.abs(slopes[:, max(0, i - 2) : i + 3] - slopes[:, [i]])) for i in range(1, steps - 1)]
    bounds = 3 * np.array(spread) + rounding / lengths[1:-1]
    best = int(np.argmin(np.where(np.isfinite(bounds), bounds, np.inf)))
    return best + 1, float(bounds[best])
