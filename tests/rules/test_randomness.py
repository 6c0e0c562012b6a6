"""Random numbers as functions of the parameters of their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from .checking import assert_close, random_like

pytestmark = pytest.mark.usefixtures("x64")


def test_rng_uniform_vjp():
    """Each run draws anew, so the cotangents are compared with the draw that came with them, to second order."""

    @jax.jit
    def both(a, b, dy, dda):
        def first(a, b):
            y, pullback = fb.vjp(lambda a, b: lax.rng_uniform(a, b, (5, 2)), a, b)
            return pullback(dy), y

        (found, y), pullback = fb.vjp(first, a, b)
        return found, y, pullback(((dda, jnp.zeros_like(dda)), jnp.zeros_like(y)))

    a, b = jnp.float64(-1.5), jnp.float64(2.0)
    dy = random_like(jnp.zeros((5, 2)))
    found, y, second = both(a, b, dy, jnp.float64(0.7))
    u = (y - a) / (b - a)
    assert 0 <= u.min() and u.max() < 1
    assert_close(found, (jnp.sum(dy * (1 - u)), jnp.sum(dy * u)), 1e-12)
    np.testing.assert_allclose(np.asarray(second), 0, atol=1e-12)  # y is linear in a and b
    with pytest.raises(NotImplementedError):
        jax.grad(lambda a: lax.rng_uniform(a, b, (3,)).sum())(a)
