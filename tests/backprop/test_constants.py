"""Arrays that jitted functions close over: right gradients, and nothing of them kept when the function is gone."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.backprop import constants

X = np.random.default_rng(0).normal(size=(2, 3))


def layer(array):
    """More equations than are walked in place."""
    return jax.jit(lambda x: jnp.sin(x @ array) * jnp.cos(x) + jnp.exp(-x * x) * x - x)


def in_scan(f):
    return lambda x: jax.lax.scan(lambda h, _: (f(h), jnp.sum(f(h))), x, None, length=2)


def in_while(f):
    def once_more(state):
        h, steps = state
        return (jnp.sum(f(h)) < 100.0) & (steps < 2)

    return lambda x: jax.lax.while_loop(once_more, lambda state: (f(state[0]), state[1] + 1), (x, 0))[0]


PLACES = {
    "alone": lambda f: f,
    "twice": lambda f: lambda x: f(f(x)),
    "in jit": lambda f: jax.jit(lambda x: jnp.tanh(f(jnp.sin(x) * jnp.cos(x) + jnp.exp(-x) * f(x)))),
    "in scan": in_scan,
    "in scan in jit": lambda f: jax.jit(in_scan(f)),
    "in while": in_while,
    "in remat": lambda f: jax.checkpoint(lambda x: jnp.sin(f(x))),
    "in vmap": lambda f: jax.vmap(lambda row: f(row[None])[0]),
}


def summed(fun):
    return lambda x: sum(map(jnp.sum, jax.tree.leaves(fun(x))))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("place", PLACES)
def test_gradient(place):
    array, x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3))), jnp.asarray(X)
    fun = summed(PLACES[place](layer(array)))
    if place == "in while":  # which JAX refuses, but for a known number of steps
        expected = jax.jit(jax.grad(summed(lambda x: layer(array)(layer(array)(x)))))(x)
    else:
        expected, hessian = jax.jit(lambda x: (jax.grad(fun)(x), jax.hessian(fun)(x)))(x)
        np.testing.assert_allclose(jax.jit(fb.hessian(fun))(x), hessian, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(fb.grad(fun)(x), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(jax.jit(fb.grad(fun))(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_kept(place):
    def once():
        array = jnp.ones((3, 3))
        fb.grad(summed(PLACES[place](layer(array))))(jnp.ones((2, 3))).block_until_ready()
        return weakref.ref(array)

    array = once()
    gc.collect()
    assert array() is None


def test_each_inner_function_is_looked_at_once(monkeypatch):
    """However often the functions around it call it, 2 to the power of 12 times here."""
    looked, new_lift = [], constants._new_lift
    monkeypatch.setattr(constants, "_new_lift", lambda inner: looked.append(inner) or new_lift(inner))
    fun = jnp.sin
    for _ in range(12):
        fun = jax.jit(lambda x, inner=fun: inner(inner(x)))
    assert np.isfinite(fb.grad(fun)(1.0))
    assert len(looked) <= 2 * 12


def test_equal_calls_are_planned_once():
    """A jitted function that lives is compiled once, though it closes over an array."""
    f, traced = layer(jnp.ones((3, 3))), []

    @jax.custom_vjp
    def noted(x):
        return x

    noted.defvjp(lambda x: (x, None), lambda _, ct: (traced.append(1) or ct,))
    fun = summed(jax.jit(lambda x: f(noted(x)) * jnp.sin(x) + jnp.cos(x) * x))
    for _ in range(3):
        fb.grad(lambda x: fun(x))(jnp.ones((2, 3)))
    assert len(traced) == 1
