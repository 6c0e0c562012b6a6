"""What a batch holds, and numbers in few characters."""

import doctest
import math

import numpy as np
import pytest

from fnbackprop.training.record import throughput
from fnbackprop.training.record.throughput import amount_of, short


def test_docstring_examples():
    assert doctest.testmod(throughput).failed == 0


@pytest.mark.parametrize(
    "batch, amount",
    [
        (np.zeros((4, 7), np.uint8), (28, "tokens")),
        (np.zeros((4, 7), np.float32), (4, "examples")),
        (np.zeros((4, 7), bool), (4, "examples")),
        ([np.float32(1), np.zeros((5, 2, 2), np.uint8)], (5, "examples")),
        (3.0, (1, "examples")),
        (None, (1, "examples")),
    ],
)
def test_amount_of(batch, amount):
    assert amount_of(batch) == amount


def test_short_is_short_and_right():
    for number in np.geomspace(1e-3, 9e17, 500):
        text = short(number)
        unit = "kMGTPE".find(text[-1]) + 1
        assert len(text) <= 7 and math.isclose(float(text.rstrip("kMGTPE")) * 1000**unit, number, rel_tol=0.06), text
    assert [short(number) for number in (999.6, 99960, math.nan, math.inf)] == ["1.0k", "100k", "nan", "inf"]
