"""A gradient that is exactly zero, of a function that moves all the same.

A bisection is one: it depends on its input through comparisons alone, so that its steps are flat, and its slope is seen
over many of them. No derivative of its equations is that slope.
"""

from typing import Any

import numpy as np

from ..arrays import array_norm
from .directions import DirectionalEvaluator, gaussian_direction
from .slopes import SIGNIFICANT

WIDE = 2.0 ** -np.arange(2, 8)  # lengths of steps, relative to the leaf: as many as of the narrow ones
ALIKE = 0.3  # relative: how far the slopes over these may differ
REASON = (
    "the gradient is exactly zero, but over steps of 1 to 25 % of this leaf the function's slope is {slope:.2g}: it "
    "depends on it through decisions (comparisons, rounding) alone"
)


def decided_slope(evaluator: DirectionalEvaluator, gradient: Any, seed: int, leaf: int) -> str:
    """Why a gradient of zero is not the slope of the function along a leaf of it; empty if the function is flat."""
    slopes = evaluator.along(gradient, gradient, seed, leaf, WIDE).slopes
    central = slopes.central
    middle = float(np.median(central))
    noise = SIGNIFICANT * slopes.rounding / slopes.lengths
    if not (np.isfinite(central).all() and (np.abs(central) > noise).all()):
        return ""
    steady = np.max(np.abs(central - middle)) <= ALIKE * abs(middle)
    if not steady or abs(middle) * WIDE[0] <= SIGNIFICANT * evaluator.noise_beside(seed, WIDE[0]):  # of what cancels
        return ""
    length = array_norm(gaussian_direction(evaluator.program.inputs, evaluator.scales, seed)[leaf])
    return REASON.format(slope=abs(middle) / length)
