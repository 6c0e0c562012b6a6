"""Hessian-vector products against Hessians that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb
from fnbackprop.balancing.curvature import (
    DIFFERENCES,
    FORWARD_OVER_REVERSE,
    PRODUCTS,
    choose_product,
    rayleigh_quotient,
)
from fnbackprop.balancing.lanczos import Lanczos

pytestmark = pytest.mark.usefixtures("x64")


def loss(params, x):
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.mean(jax.nn.logsumexp(hidden, axis=-1) ** 2)


RANDOM = np.random.default_rng(0)
PARAMS, X = {"w": RANDOM.normal(size=(3, 4)), "b": RANDOM.normal(size=(1, 4))}, RANDOM.normal(size=(5, 3))


def dense(vector):
    """H v from jax.hessian."""
    flat, back = jax.flatten_util.ravel_pytree(PARAMS)
    return back(jax.hessian(lambda p: loss(back(p), X))(flat) @ jax.flatten_util.ravel_pytree(vector)[0])


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    vector = optax.tree.random_like(jax.random.key(2), PARAMS)
    found = jax.jit(lambda p, v, x: PRODUCTS[name](fb.grad(loss), p, v, x))(PARAMS, vector, X)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(dense(vector)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6 if name == DIFFERENCES else 1e-12, atol=1e-7)


def test_the_scale_of_parameters():
    """theta = 10 theta' makes every curvature 100 times as large."""

    def largest(fun, params):
        lanczos = Lanczos(lambda v, p, x: PRODUCTS[FORWARD_OVER_REVERSE](fb.grad(fun), p, v, x))
        start = lambda: optax.tree.random_like(jax.random.key(3), params)  # noqa: E731
        return lanczos.ends(start, params, X, tolerance=1e-9).largest.value

    scaled = jax.tree.map(lambda leaf: leaf / 10, PARAMS)
    ratio = largest(lambda p, x: loss(jax.tree.map(lambda leaf: 10 * leaf, p), x), scaled) / largest(loss, PARAMS)
    assert ratio == pytest.approx(100, rel=1e-6)


def test_complex_parameters():
    """The loss |w|^2 / 2 + 2 Im(w)^2 has the curvatures 1 and 5."""
    gradient = fb.grad(lambda w: jnp.sum(jnp.abs(w) ** 2 / 2 + 2 * jnp.imag(w) ** 2))

    def product(v):
        return PRODUCTS[FORWARD_OVER_REVERSE](lambda w: jnp.conj(gradient(w)), jnp.array([1.0 + 2j, -1j]), v)

    found = Lanczos(product).ends(lambda: jnp.array([1.0 + 1j, 2 - 1j]))
    assert found.largest.value == pytest.approx(5) and found.smallest.value == pytest.approx(1)


def test_differences_where_forward_mode_is_refused():
    def on_host(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    wave = jax.custom_vjp(lambda x: on_host(x))
    wave.defvjp(lambda x: (wave(x), x), lambda x, dy: (dy * on_host(x + np.pi / 2),))
    gradient = fb.grad(lambda x: jnp.sum(wave(x)))
    x = jnp.array([0.3, 1.0])
    name, why = choose_product(gradient, x)
    assert name == DIFFERENCES and why
    np.testing.assert_allclose(
        PRODUCTS[name](gradient, x, jnp.array([1.0, -1.0])), [-np.sin(0.3), np.sin(1.0)], rtol=1e-6
    )
    assert choose_product(fb.grad(loss), PARAMS, X) == (FORWARD_OVER_REVERSE, "")


def test_rayleigh_quotient():
    quotient = rayleigh_quotient(lambda v, d: d * v, jnp.array([1.0, 2.0]), jnp.array([3.0, 8.0]))
    assert quotient == pytest.approx((3 + 32) / 5)
