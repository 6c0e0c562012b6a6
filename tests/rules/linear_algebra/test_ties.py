"""Quotients at ties: 0 where the numerator is a rounding error as well, and NaN where it is not."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.rules.expressions import Expr
from fnbackprop.rules.linear_algebra.ties import differences, divided, settled, sums, tied, vanishing

pytestmark = pytest.mark.usefixtures("x64")
VALUES = Expr(np.array([1.0, 2.0, 2.0]))  # the last two tie
ONE = Expr(np.ones((1, 1)))


def quotient(x, strict):
    gaps, x = differences(VALUES), Expr(jnp.asarray(x))
    return np.asarray(divided(x, gaps, settled(x, gaps, ONE, ONE, strict)).array)


def test_differences_and_sums():
    v = np.asarray(VALUES.array)
    np.testing.assert_array_equal(differences(VALUES).array, v[None, :] - v[:, None])
    np.testing.assert_array_equal(sums(VALUES).array, v[None, :] + v[:, None])


def test_rounding_errors_are_measured_by_the_scale():
    x = Expr(jnp.array([[1e-15, 1e-9]]))
    for test in (tied, vanishing):
        assert test(x, ONE).array.tolist() == [[True, False]]
        assert test(x, Expr(jnp.full((1, 1), 1e7))).array.tolist() == [[True, True]]


def test_a_tie_whose_numerators_vanish_counts_for_nothing():
    x = np.array([[5.0, 1, 2], [3, 5, 1e-17], [4, -1e-17, 5]])
    found = quotient(x, strict=True)
    np.testing.assert_allclose(found, [[0, 1, 2], [-3, 0, 0], [-4, 0, 0]], rtol=1e-12)


def test_numerators_that_cancel_are_not_enough_where_the_values_have_a_cotangent():
    x = np.array([[5.0, 1, 2], [3, 5, 0.5], [4, 0.5, 5]])
    assert quotient(x, strict=False)[1, 2] == 0
    assert np.isnan(quotient(x, strict=True)[1, 2])
