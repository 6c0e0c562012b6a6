"""Intervals and paired differences."""

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from fnbackprop.balancing.estimates import CONFIDENCE, Estimate, difference, quantile


def test_the_interval_of_a_mean():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        found = Estimate.of_mean(random.normal(3.0, 2.0, size=8))
        held += found.low <= 3 <= found.high
    assert 480 <= held <= 498
    assert Estimate.of_mean([2.0]) == Estimate(2.0, -math.inf, math.inf)
    assert Estimate(1.0, 0.5, 2.0).times(-2.0) == Estimate(-2.0, -4.0, -1.0)


def test_paired_differences():
    """What both series share cancels; what neighbours share makes the error larger."""
    random = np.random.default_rng(0)
    shared, noise = random.normal(size=400), random.normal(size=400)
    mean, error = difference(shared + 1 + 0.1 * noise, shared)
    assert mean == pytest.approx(1, abs=0.02) and error == pytest.approx(0.1 / 20, rel=0.1)
    slow = np.repeat(noise[:40], 10)
    assert difference(slow, np.zeros(400))[1] > 2 * slow.std() / 20
    assert difference([1.0, 2.0], [1.0, 2.0]) == (0.0, 0.0)
    assert math.isnan(difference([1.0, math.nan], [0.0, 0.0])[0])


def test_the_quantile_is_that_of_students_distribution():
    freedoms = [*range(1, 40), 99, 1000, 10001]
    expected = stdtrit(freedoms, (1 + CONFIDENCE) / 2)
    np.testing.assert_allclose([quantile(freedom) for freedom in freedoms], expected, rtol=1e-11)
