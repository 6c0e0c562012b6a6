"""Arrays in float64, and norms of them that neither overflow nor underflow."""

from typing import Any

import numpy as np


def to_float64(leaf: Any) -> np.ndarray:
    """The array in float64 or complex128."""
    array = np.asarray(leaf)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def array_norm(array: Any) -> float:
    """The Euclidean norm, scaled by the largest element, so neither 1e-200 nor 1e200 is lost in its square."""
    array = to_float64(array)
    largest = float(np.max(np.abs(array), initial=0.0))
    return largest * float(np.linalg.norm((array / largest).ravel())) if 0 < largest < np.inf else largest


def over(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return 0.0 if numerator == 0 else np.inf
    return numerator / denominator
