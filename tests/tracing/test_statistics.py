"""Statistics of arrays, small and large, in numpy and compiled."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.tracing import statistics as module


@pytest.mark.parametrize("small", [0, 1 << 16], ids=["compiled", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_of_an_array(monkeypatch, small, dtype):
    monkeypatch.setattr(module, "SMALL", small)
    found = module.statistics(jnp.asarray([3.0, -4.0, 0.0, jnp.nan, jnp.inf, -jnp.inf], dtype))
    low = 0 if dtype == "complex64" else -4
    assert found == (6, low, 4 if dtype == "complex64" else 3, pytest.approx(np.sqrt(25 / 3)), 1, 2, 1, 0)
    assert found.bad == "nan" and found.largest == 4 and found.share_zero == 1 / 6


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_do_not_leave_the_range(size):
    assert module.statistics(jnp.full(3, size, "float32")).rms == pytest.approx(size)


def test_of_small_numbers_and_of_nothing():
    assert module.statistics(np.array([1e-40, 1.0], np.float32)).tiny == 1
    assert module.statistics(jnp.zeros((0, 3))) == (0, 0, 0, 0, 0, 0, 0, 0)
    assert module.statistics(jnp.full(2, jnp.inf)).bad == "inf"
