"""The noise scale of gradients whose noise is known."""

import numpy as np
import pytest

from fnbackprop.balancing.noise import GradientProducts, noise_scale


def synthetic(seed, true, batches=16, size=64, parameters=500):
    """Of Gaussian gradients with |G| = 1 and tr(S) = true."""
    noise = np.random.default_rng(seed).normal(size=(batches, parameters)) * np.sqrt(true / parameters / size)
    gradients = np.full(parameters, parameters**-0.5) + noise
    total = gradients.sum(axis=0)
    return noise_scale(GradientProducts((gradients**2).sum(axis=1), gradients @ total, float(total @ total), size))


@pytest.mark.parametrize("true", [20, 250, 5000])
def test_the_interval_holds_the_true_one(true):
    """In 95 of 100 seeds at least; where the gradient is lost in the noise, the lower end is a bound."""
    found = [synthetic(seed, true) for seed in range(100)]
    assert sum(scale.examples.low <= true <= scale.examples.high for scale in found) >= 95


def test_the_interval_is_narrow_where_noise_is_small():
    found = synthetic(0, 20)
    assert not found.is_bound and found.examples.high < 1.3 * found.examples.low
    assert found.efficiency == pytest.approx(1 / (1 + 20 / 64), rel=0.05)


def test_a_gradient_lost_in_the_noise_gives_a_bound():
    found = synthetic(0, 1e6)
    assert found.is_bound and 0 < found.examples.low < 1e6


def test_equal_batches_have_no_noise():
    same = np.full(8, 4.0)
    assert noise_scale(GradientProducts(same, 8 * same, 64 * 4.0, 10)) is None
