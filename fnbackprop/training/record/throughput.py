"""How much data a step takes, and its speed in tokens or examples per second."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

UNITS = ("", "k", "M", "G", "T", "P", "E")


class Amount(NamedTuple):
    """A number of tokens or of examples."""

    count: int
    unit: str


def amount_of(batch: Any) -> Amount:
    """What a batch holds: tokens if it has an array of integers of (batch, time), else examples.

    >>> amount_of({"inputs": np.zeros((8, 64), np.int32), "targets": np.zeros((8, 64), np.int32)})
    Amount(count=512, unit='tokens')
    >>> amount_of({"images": np.zeros((8, 32, 32, 3)), "labels": np.zeros((8,), np.int32)})
    Amount(count=8, unit='examples')
    """
    leaves = jax.tree.leaves(batch)
    tokens = [np.size(leaf) for leaf in leaves if np.ndim(leaf) == 2 and _is_integer(leaf)]
    if tokens:
        return Amount(max(tokens), "tokens")
    return Amount(max((np.shape(leaf)[0] for leaf in leaves if np.ndim(leaf)), default=1), "examples")


def _is_integer(leaf: Any) -> bool:
    return np.issubdtype(jax.dtypes.result_type(leaf), np.integer)


def short(number: float) -> str:
    """A number in at most five characters.

    >>> short(0.0123), short(4.56), short(912.3), short(45678), short(1.2e9)
    ('0.012', '4.6', '912', '45.7k', '1.2G')
    """
    if not math.isfinite(number) or number < 10:
        return f"{number:.2g}"
    power = min(len(UNITS) - 1, int(math.log10(number * 1.0005)) // 3)
    scaled = number / 1000**power
    return f"{scaled:.0f}{UNITS[power]}" if scaled >= 99.95 or not power else f"{scaled:.1f}{UNITS[power]}"
