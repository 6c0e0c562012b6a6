"""Distances between arrays, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.leaves import compare_leaf
from fnbackprop.comparing.results import Verdict


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


def test_a_gradient_of_another_dtype_fails():
    """Also an int or a bool, which JAX hands on where a custom rule returns one: that is no absent gradient."""
    for dtype in (bool, np.int32, np.float16, np.complex64):
        leaf = compare_leaf("w", np.float32([1, 0]), np.array([1, 0], dtype), 1e-6, 0.0)
        assert leaf.verdict is Verdict.FAIL
        assert leaf.reason == f"the manual gradient is float32[2], the automatic {np.dtype(dtype)}[2]"


def test_a_gradient_far_from_float64s_excuses_no_other():
    right, wrong = np.float32([0.3, 2.1]), np.float32([0.3, 0.0])
    leaf = compare_leaf("w", right, wrong, 1e-6, 1e-7, reference=np.float64(right))
    assert leaf.verdict is Verdict.PASS and leaf.allowed == 1e-6
    leaf = compare_leaf("w", wrong, wrong, 1e-6, 1e-7, reference=np.float64(right))
    assert leaf.verdict is Verdict.NOISE_LIMITED
    assert leaf.reason == "the automatic gradient is 9.9e-01 of its norm away from the one in float64"
