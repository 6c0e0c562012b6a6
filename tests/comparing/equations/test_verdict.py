"""What a difference of two cotangents is; a failure's error is always above what it says is allowed."""

from types import SimpleNamespace

import numpy as np
import pytest

from fnbackprop.comparing.equations.check import CotangentPair
from fnbackprop.comparing.equations.verdict import Finding, difference_of

FLOOR = 4.8e-7
RIGHT = np.random.default_rng(0).normal(size=50)


def difference(low, high):
    """Of a pair in float32 that differs by `low`, relatively, and in float64 by `high`."""
    pair = CotangentPair(np.float32(RIGHT * (1 + low)), np.float32(RIGHT), np.ones(4))
    evidence = SimpleNamespace(pairs=[pair], check=SimpleNamespace(users_mode=False))
    return difference_of(evidence, 0, ([RIGHT * (1 + high)], [RIGHT]), FLOOR)


@pytest.mark.parametrize("low, high, finding", [
    (6e-7, 3.5e-7, Finding.ROUNDING),  # an approximation as good as the program's precision
    (6e-7, 0.0, Finding.ROUNDING),
    (1e-3, 1e-3, Finding.DIFFERS),
    (1e-6, 9e-7, Finding.DIFFERS),
    (1e-3, 0.0, Finding.IMPRECISE),
])  # fmt: skip
def test_what_a_difference_is(low, high, finding):
    found = difference(low, high)
    assert found.finding is finding
    error = np.linalg.norm(found.ours - found.theirs) / np.linalg.norm(found.theirs)
    assert finding is Finding.ROUNDING or error > found.allowed
