"""With which of two gradients the differences along some directions agree."""

import math
from typing import NamedTuple

import numpy as np

from ..results import Sides, Verdict
from ..tolerance import NOISE, NOISE_LIMIT
from .directions import Along
from .slopes import best_step, shape_of


class DifferencesVerdict(NamedTuple):
    """A verdict, its reason, and the distances of both gradients, with what is allowed, relative to `size`."""

    verdict: Verdict
    reason: str
    manual: float
    automatic: float
    allowed: float
    size: float


def verdict_of(found: list[Along], size: float, own: float, matters: float, sides: Sides) -> DifferencesVerdict:
    """The verdict of all directions; `own` is the rounding of the gradient along a direction."""
    rounding = np.nanmax([a.slopes.rounding for a in found] + [0.0])
    central = np.stack([a.slopes.central for a in found])
    lengths = found[0].slopes.lengths
    chosen, spread = best_step(central, lengths, rounding)
    steep = np.abs(central[:, chosen])
    size = max(size, np.max(steep, where=np.isfinite(steep), initial=0.0), rounding / lengths[0]) or 1.0
    allowed = (spread + 4 * own) / size
    slopes = ([a.manual for a in found], [a.automatic for a in found])
    worst = [max(abs(c - by) for c, by in zip(central[:, chosen], side, strict=True)) / size for side in slopes]
    shapes = [shape_of(a.slopes, matters * (size if math.isfinite(size) else 0.0)) for a in found]
    rough = [shape for shape in shapes if shape[0] is not Verdict.PASS]
    said = agreement(*worst, allowed, sides)
    if 2 * len(rough) >= len(found) and rough:
        said = rough[0]
        if said[0] is Verdict.KINK and not all(_between(a, allowed * size) for a in found):
            said = Verdict.FAIL, f"{said[1]}; the gradient's slope does not lie between them"
    return DifferencesVerdict(*said, *worst, allowed, size)


def _between(along: Along, slack: float) -> bool:
    """Whether the manual slope lies between those of both sides; a NaN is no slope, and is reported elsewhere."""
    ends = sorted((along.slopes.left[-1], along.slopes.right[-1]))
    return not (along.manual < ends[0] - slack or along.manual > ends[1] + slack)


def agreement(manual: float, automatic: float, allowed: float, sides: Sides) -> tuple[Verdict, str]:
    """With which gradient smooth differences agree: the distances of both, and the allowed one, are relative."""
    if not math.isfinite(allowed):
        return Verdict.NON_FINITE, "a difference is NaN or infinite"
    coarse = allowed > NOISE_LIMIT  # and itself known to within the factor NOISE alone
    limited = Verdict.NOISE_LIMITED, "a kink is near, or rounding is too coarse"
    if manual <= allowed:
        return limited if coarse else (Verdict.PASS, "")
    if sides.automatic and automatic <= allowed:
        return Verdict.FAIL, f"the differences agree with {sides.automatic}, not with {sides.manual}"
    if not math.isfinite(manual):
        return Verdict.FAIL, "the function has a finite slope here, but the gradient is NaN or infinite"
    if coarse and manual <= NOISE * allowed:
        return limited
    whom = "with neither" if sides.automatic else f"not with {sides.manual}"
    return Verdict.FAIL, f"the differences agree {whom}: a rule is wrong, or a gradient is stopped on purpose"
