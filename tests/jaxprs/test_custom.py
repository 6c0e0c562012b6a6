"""Custom rules whose function was changed after them, as by `checkify`, which adds outputs to the function alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import fnbackprop as fb

pytestmark = pytest.mark.usefixtures("x64")


@jax.custom_vjp
def by_vjp(x):
    return jnp.sin(x)


@jax.custom_jvp
def by_jvp(x):
    return jnp.sin(x)


by_vjp.defvjp(lambda x: (jnp.sin(x), 2 * x), lambda x2, ct: (3 * jnp.cos(x2 / 2) * ct,))
by_jvp.defjvp(lambda primals, tangents: (by_jvp(*primals), 3 * jnp.cos(*primals) * tangents[0]))


@pytest.mark.parametrize("function", [by_vjp, by_jvp, jax.nn.relu])
def test_a_checkified_function_with_a_custom_rule(function):
    def checked(x):
        checkify.check(x[0] < 9, "too large")
        return jnp.sum(function(x) ** 2)

    x = jnp.asarray([0.5, 2.0])
    expected = jax.grad(lambda x: jnp.sum(function(x) ** 2))(x)
    for errors in (checkify.user_checks, checkify.float_checks | checkify.user_checks):
        run = checkify.checkify(checked, errors=errors)
        (error, _), pullback = fb.vjp(run, x)
        assert error.get() is None
        error = fb.vjp(run, x + 9)[0][0]
        assert "too large" in error.get()
        gradient = fb.grad(lambda x, run=run: run(x)[1])
        np.testing.assert_allclose(gradient(x), expected, rtol=1e-14)
        np.testing.assert_allclose(jax.jit(gradient)(x), expected, rtol=1e-14)
    error, gradient = checkify.checkify(fb.grad(checked), errors=checkify.float_checks)(x * jnp.inf)
    assert function is jax.nn.relu or "nan generated" in error.get()
