"""A part of a function in `with jax.enable_x64():`, differentiated outside: its rules run in 64-bit mode too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

X = np.linspace(0.3, 0.9, 6, dtype=np.float32)


def in_x64(fun):
    def narrow(x):
        with jax.enable_x64(True):
            return jnp.sum(fun(lax.convert_element_type(x, jnp.float64)))

    return narrow


@jax.custom_jvp
def by_jvp(x):
    return x**2.0


@by_jvp.defjvp
def by_jvp_jvp(primals, tangents):
    assert jax.config.jax_enable_x64
    return by_jvp(*primals), jnp.full(primals[0].shape, 3.0) * tangents[0]


@jax.custom_vjp
def by_vjp(x):
    return x**2.0


def by_vjp_bwd(factor, ct):
    assert jax.config.jax_enable_x64
    return (jnp.full(ct.shape, 3.0) * factor * ct,)


by_vjp.defvjp(lambda x: (by_vjp(x), jnp.ones(x.shape)), by_vjp_bwd)


def newton(x):
    return lax.while_loop(lambda s: s[1] < 6, lambda s: ((s[0] + x / s[0]) / 2, s[1] + 1), (x, 0))[0]


CASES = {
    "mixed": (lambda x: jnp.tanh(x) ** 2.5 * x[jnp.array([0, 2, 2, 1, 4, 5])], None),
    "cumprod": (jnp.cumprod, None),
    "while": (newton, 1 / (2 * np.sqrt(X))),
    "custom_jvp": (by_jvp, np.full(6, 3.0)),
    "custom_vjp": (by_vjp, np.full(6, 3.0)),
}


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_part_in_64_bits(name, eager):
    fun, expected = CASES[name]
    gradient = fb.grad(in_x64(fun), eager=eager)
    if expected is None:
        with jax.enable_x64(True):
            expected = jax.grad(lambda x: jnp.sum(fun(x)))(X.astype(np.float64))
    for found in (gradient(X), jax.jit(gradient)(X)):
        assert found.dtype == np.float32 and not jax.config.jax_enable_x64
        np.testing.assert_allclose(found, expected, rtol=2e-7)


def test_at_second_order():
    second = fb.grad(lambda x: jnp.sum(fb.grad(in_x64(jnp.tanh))(x) ** 2))
    with jax.enable_x64(True):
        expected = jax.grad(lambda x: jnp.sum((1 - jnp.tanh(x) ** 2) ** 2))(X.astype(np.float64))
    np.testing.assert_allclose(second(X), expected, rtol=1e-6)


@pytest.mark.parametrize("eager", [False, True])
def test_a_pullback_of_64_bits_is_called_outside(eager):
    with jax.enable_x64(True):
        x, ct = jnp.asarray(X, jnp.float64), jnp.ones(6, jnp.float64)
        _, pullback = fb.vjp(lambda x: by_vjp(jnp.sin(x) * 2.0), x, eager=eager)
        (expected,) = pullback(ct)
    (found,) = pullback(ct)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
