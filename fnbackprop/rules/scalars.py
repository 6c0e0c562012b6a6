"""Constants in an array's own dtype: `lax` does not promote, and a typed scalar is a literal, free to trace."""

from typing import Any

import numpy as np


def scalar(value: float, like: Any) -> np.ndarray:
    """`value` as a rank-0 array of the dtype of `like`."""
    return np.array(value, like.dtype)
