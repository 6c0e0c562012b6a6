"""`jax_debug_nans`: no NaN is made on the way to a finite gradient.

Eager, because of a jitted function JAX looks at the results alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

A = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
SYMMETRIC = A @ A.T + np.eye(3, dtype="float32")
SHAPES = np.float32([0.3, 0.5, 2, 3, 50])
POINTS = np.float32([0, 1e-30, 0.5, 3, np.inf])


def each(function):
    """The sum of all that a function returns, in absolute value."""
    return lambda x: sum(jnp.sum(jnp.abs(y)) for y in jax.tree.leaves(function(x)))


@pytest.mark.parametrize("fun, x", [
    (jnp.linalg.eigh, SYMMETRIC),
    (lambda a: jnp.linalg.eigh(a)[0], np.eye(3, dtype="float32")),
    (jnp.linalg.eig, A),
    (partial(jnp.linalg.svd, full_matrices=False), A[:2]),
    (partial(jnp.linalg.svd, compute_uv=False), np.diag(np.float32([1, 2, 3]))),
    (lax.linalg.schur, SYMMETRIC),
    (jnp.linalg.cholesky, SYMMETRIC),
    (jnp.linalg.qr, A[:, :2]),
    (lambda a: jax.scipy.linalg.lu(a)[1:], A),
    (lambda a: lax.igamma(a, POINTS), SHAPES),
    (lambda x: (lax.igamma(1 + SHAPES, x), lax.igammac(1 + SHAPES, x)), POINTS),
    (lambda a: lax.betainc(a, a, np.float32([0, 0.1, 0.5, 0.9, 1])), SHAPES),
    (lambda a: jax.random.gamma(jax.random.key(0), a), SHAPES),
    (lambda a: jax.random.loggamma(jax.random.key(0), a), SHAPES),
])  # fmt: skip
def test_no_nan_on_the_way(fun, x):
    with jax.debug_nans(True):
        assert np.isfinite(fb.grad(each(fun))(jnp.asarray(x))).all()


def test_a_nan_that_stays_is_still_one():
    """Vectors of a repeated eigenvalue have no derivative."""
    assert np.isnan(fb.grad(lambda a: jnp.linalg.eigh(a)[1][0, 1])(jnp.eye(3))).any()
