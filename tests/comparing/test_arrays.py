"""Norms and distances of arrays, against their definitions."""

import numpy as np
import pytest

from fnbackprop.comparing.arrays import array_norm, relative_error


@pytest.mark.parametrize("size", [1e-250, 1.0, 1e250])
def test_array_norm_has_no_overflow(size):
    array = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(array_norm(size * array), size * np.linalg.norm(array), rtol=1e-14)


def test_array_norm_of_special_arrays():
    assert array_norm(np.zeros((0, 2))) == 0 and array_norm(np.zeros((3,))) == 0
    assert array_norm(np.array([1.0, np.inf])) == np.inf
    np.testing.assert_allclose(array_norm(np.array([3 + 4j, 12j])), 13)


def test_relative_error():
    assert relative_error([1.0, 2.0], [1.0, 2.0]) == 0 and relative_error([0.0], [0.0]) == 0
    np.testing.assert_allclose(relative_error([3.0, 4.0], [0.0, 4.0]), 0.75)
    assert relative_error([1.0], [0.0]) == np.inf
    assert np.isnan(relative_error([np.nan], [np.nan]))
