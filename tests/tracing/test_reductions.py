"""The statistics that a compiled program returns are those of the arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.tracing.reductions import as_real, reduced, statistics_of
from fnbackprop.tracing.statistics import statistics

RNG = np.random.default_rng(0)
SPECIAL = [np.nan, np.inf, -np.inf, np.inf, 0.0, -0.0, 1e-39, -2.0, 3.0]
ARRAYS = {
    "normal": RNG.normal(size=(4, 96)).astype("float32"),
    "huge and tiny": np.array([3e38, -1e38, 1e-38], "float32"),
    "small": np.full(7, 1e-30, "float32"),
    "special": np.array(SPECIAL, "float32"),
    "not finite": np.array([np.nan, np.inf], "float32"),
    "zeros": np.zeros((2, 300), "float32"),
    "prime": RNG.normal(size=(1009,)).astype("float32"),
    "bfloat16": jnp.asarray(RNG.normal(size=(5, 8)), "bfloat16"),
    "float16": np.array([1e-7, 1.0, np.inf, 0.0], "float16"),
    "complex": (RNG.normal(size=(3, 4)) + 1j).astype("complex64"),
    "empty": np.zeros((0, 3), "float32"),
}


@jax.jit
def seen(x):
    return reduced(as_real(x)[None])[0]


@pytest.mark.parametrize("name", ARRAYS)
def test_statistics(name):
    x = ARRAYS[name]
    found, expected = statistics_of(np.asarray(seen(x)), np.size(x), 1), statistics(x)
    assert found is not None
    assert found._replace(low=0, high=0, rms=0) == expected._replace(low=0, high=0, rms=0)
    np.testing.assert_allclose((found.low, found.high, found.rms), (expected.low, expected.high, expected.rms), 1e-5)


def test_float64(x64):
    x = jnp.asarray([1e200, -1e-200, 0.0, 5e-320, np.nan])
    found, expected = statistics_of(np.asarray(seen(x)), 5, 1), statistics(x)
    assert found._replace(rms=0) == expected._replace(rms=0)
    np.testing.assert_allclose(found.rms, expected.rms, 1e-12)


def test_broadcast_and_not_computed():
    columns = np.asarray(seen(np.array([0.0, 2.0, np.nan], "float32")))
    found = statistics_of(columns, 3, 4)
    assert (found.size, found.nan, found.zero, found.high) == (12, 4, 4, 2.0)
    np.testing.assert_allclose(found.rms, np.sqrt(2))
    assert statistics_of(0 * columns, 3, 1) is None
