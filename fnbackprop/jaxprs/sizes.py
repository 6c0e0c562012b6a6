"""Sizes of arrays for choices of cost, which `jax.export` may leave open: a dimension of a shape may be a symbol."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

UNKNOWN = 128  # what a dimension that is a symbol counts as


def is_symbolic(shape: Iterable[Any]) -> bool:
    """Whether a dimension of a shape is not known until an exported function is called."""
    return not all(isinstance(n, int | np.integer) for n in shape)


def size_of(shape: Iterable[Any]) -> int:
    """The number of elements, estimated where a dimension is a symbol: for choices of cost alone.

    Example:
      size_of((2, 3)) == 6
    """
    return math.prod(int(n) if isinstance(n, int | np.integer) else UNKNOWN for n in shape)
