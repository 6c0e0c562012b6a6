"""Distances between arrays, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.arrays import array_norm
from fnbackprop.comparing.leaves import compare_leaf, relative_error
from fnbackprop.comparing.results import Verdict


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


@pytest.mark.parametrize(
    "manual, automatic, noise, verdict, reason",
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, Verdict.PASS, ""),
        ([1.0, 2.1], [1.0, 2.0], 0.0, Verdict.FAIL, "worst element at [1]: manual 2.1, automatic 2"),
        ([1.0, 2.1], [1.0, 2.0], 0.02, Verdict.PASS, ""),
        (
            [1.0, 2.1],
            [1.0, 2.0],
            0.2,
            Verdict.NOISE_LIMITED,
            "rounding alone moves this gradient by 2.0e-01 of its norm",
        ),
        ([0.0, 0.0], [0.0, 0.0], 0.0, Verdict.PASS, "both are exactly zero"),
        ([0.0, 1e-30], [0.0, 0.0], 0.0, Verdict.FAIL, "worst element at [1]: manual 1e-30, automatic 0"),
        ([0.0, 0.0], [0.0, 1e-30], 0.0, Verdict.FAIL, "worst element at [1]: manual 0, automatic 1e-30"),
        (
            [np.nan, 0.0],
            [np.nan, 0.0],
            0.0,
            Verdict.NON_FINITE,
            "NaN or infinite: 1 elements of manual, 1 of automatic, of 2",
        ),
        (
            [np.inf, 0.0],
            [1.0, 0.0],
            0.0,
            Verdict.FAIL,
            "NaN or infinite: 1 elements of manual, 0 of automatic, of 2",
        ),
        ([], [], 0.0, Verdict.PASS, "no elements"),
    ],
)
def test_verdicts(manual, automatic, noise, verdict, reason):
    leaf = compare_leaf("w", np.float32(manual), np.float32(automatic), 1e-6, noise)
    assert (leaf.verdict, leaf.reason) == (verdict, reason)


def test_a_scalar_leaf_has_no_index():
    leaf = compare_leaf("w", jnp.float32(1.0), jnp.float32(3.0), 1e-6, 0.0)
    assert leaf.reason == "worst element: manual 1, automatic 3"


def test_float0_is_skipped():
    zero = np.zeros((3,), jax.dtypes.float0)
    assert compare_leaf("n", zero, zero, 1e-6, 0.0).verdict is Verdict.SKIPPED
