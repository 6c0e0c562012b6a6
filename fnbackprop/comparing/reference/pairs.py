"""Pairs of a value as it was computed in the program's own precision (low) and in float64 (high)."""

from typing import Any

import jax
import numpy as np
from jax import lax

from fnbackprop.jaxprs.avals import aval_of, is_inexact

Pair = tuple[Any, Any]  # (low, high); high is None for what is no floating number


def float64_dtype(dtype: Any) -> np.dtype:
    """float64 or complex128."""
    return np.dtype(np.complex128 if jax.dtypes.issubdtype(dtype, np.complexfloating) else np.float64)


def high_half(x: Any) -> Any:
    """The high half of a low value: None if it is no floating number."""
    aval = aval_of(x)
    return lax.convert_element_type(x, float64_dtype(aval.dtype)) if is_inexact(aval) else None
