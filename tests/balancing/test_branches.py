"""Branches: what is compared, and where a range test breaks."""

import math

import numpy as np
import pytest

from fnbackprop.balancing.branches import Branch, best_of, is_better, suggestions, summarise_range
from fnbackprop.balancing.estimates import Estimate

RANDOM = np.random.default_rng(0)
NOISE = 0.1 * RANDOM.normal(size=50)


def branch(end, noise=0.0, factor=1.0):
    return Branch(factor, np.linspace(2.0, end, 50) + noise, np.array([]))


def test_is_better():
    """On the same data noise cancels; a difference that is small against the fall of the loss decides nothing."""
    assert is_better(branch(1.0, NOISE), branch(1.2, NOISE), 2.0)
    assert not is_better(branch(1.2, NOISE), branch(1.0, NOISE), 2.0)
    assert not is_better(branch(1.0, NOISE), branch(1.01, NOISE), 2.0)
    assert not is_better(branch(1.0, NOISE), branch(1.02, NOISE[::-1]), 2.0)
    broken = Branch(2.0, np.array([2.0, np.nan]), np.array([]))
    assert is_better(branch(1.9), broken, 2.0) and not is_better(broken, branch(1.9), 2.0)
    assert best_of([broken, branch(1.5), branch(1.2)]).end == branch(1.2).end and best_of([broken]) is None
    assert math.isinf(broken.end)


def test_the_overshoot_is_the_median_of_the_last_steps():
    found = Branch(1.0, np.ones(30), np.array([5.0] * 10 + [0.5, np.nan] * 10))
    assert found.overshoot == 0.5 and math.isnan(branch(1.0).overshoot)


def test_a_range_test_breaks_where_the_loss_rises_for_good():
    factors = np.geomspace(1e-2, 1e2, 100)
    rises = np.where(factors < 5, 2 - 0.2 * np.log(factors / 1e-2), 3.0)
    falls = 2 - 0.1 * np.log(factors / 1e-2)
    runs = [Branch(factors[0], losses, np.array([])) for losses in (rises, falls, rises[:80])]
    found = summarise_range(factors, runs)
    assert found.diverges_at[0] == pytest.approx(5, rel=0.3) and math.isinf(found.diverges_at[1])
    assert found.diverges_at[2] == found.diverges_at[0] == found.highest
    assert np.isnan(found.losses[2, 80:]).all()
    assert suggestions(Estimate(0.01, 0.01, 0.01), found) == pytest.approx([50, found.highest / 2])
    assert suggestions(None, None) == []
