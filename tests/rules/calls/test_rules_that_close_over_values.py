"""Custom derivative rules defined inside the differentiated function, which close over its arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

X = jnp.linspace(0.1, 1.0, 4)


def with_custom_jvp(x):
    mask = jnp.tril(jnp.ones((4, 4)))

    @jax.custom_jvp
    def masked(x):
        return jnp.sin(x) @ mask

    masked.defjvps(lambda t, y, x: (t * jnp.cos(x)) @ mask)
    return jnp.sum(masked(x) ** 2)


def with_custom_vjp(x):
    weights, largest = jnp.arange(4.0), jnp.max(jnp.arange(5.0))

    @jax.custom_vjp
    def weighted(x):
        return jnp.sin(x) * weights / largest

    weighted.defvjp(lambda x: (weighted(x), x), lambda x, g: (g * jnp.cos(x) * weights / largest,))
    return jnp.sum(weighted(x) ** 2)


def with_functions_between(x):
    noise = jax.random.normal(jax.random.key(0), (4,))

    def scaled(factor, x):
        return factor * x * noise

    @jax.custom_vjp
    def noisy(x):
        return scaled(2.0, x)

    double = functools.partial(scaled, 2.0)
    noisy.defvjp(lambda x: (noisy(x), None), lambda _, g: (double(g),))
    return jnp.sum(noisy(x) ** 2)


def with_custom_gradient(x):
    positive = x > 0.3

    @jax.custom_gradient
    def clipped(x):
        return jnp.where(positive, x, 0.3), lambda g: jnp.where(positive, g, 0.1 * g)

    return jnp.sum(clipped(x * x) ** 2)


LOSSES = [with_custom_jvp, with_custom_vjp, with_functions_between, with_custom_gradient]
FORMS = {
    "eager": lambda grad, loss: grad(loss)(X),
    "jit": lambda grad, loss: jax.jit(grad(loss))(X),
    "vmap": lambda grad, loss: jax.vmap(grad(loss))(jnp.stack([X, 2 * X])),
    "jit of vmap": lambda grad, loss: jax.jit(jax.vmap(grad(loss)))(jnp.stack([X, 2 * X])),
    "grad of vmap": lambda grad, loss: grad(lambda xs: jnp.sum(jax.vmap(loss)(xs)))(jnp.stack([X, 2 * X])),
    "in a scan": lambda grad, loss: lax.scan(lambda c, x: (c, grad(loss)(x)), 0.0, jnp.stack([X, 2 * X]))[1],
    "second order": lambda grad, loss: grad(lambda x: jnp.sum(grad(loss)(x) ** 2))(X),
    "jit of second order": lambda grad, loss: jax.jit(grad(lambda x: jnp.sum(grad(loss)(x) ** 2)))(X),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_as_jax_grad(loss, form):
    np.testing.assert_allclose(FORMS[form](fb.grad, loss), FORMS[form](jax.grad, loss), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("jitted", [False, True])
def test_called_in_the_body_of_a_scan(jitted):
    def loss(xs):
        weights = jnp.arange(4.0)

        @jax.custom_vjp
        def weighted(x):
            return jnp.sin(x) * weights

        weighted.defvjp(lambda x: (weighted(x), x), lambda x, g: (jnp.sum(g * jnp.cos(x) * weights),))
        return lax.scan(lambda c, x: (c + jnp.sum(weighted(x)), None), 0.0, xs)[0]

    gradient = fb.grad(loss)
    found = (jax.jit(gradient) if jitted else gradient)(X)
    np.testing.assert_allclose(found, 6 * jnp.cos(X), rtol=1e-6)


def test_values_of_an_outer_function_are_alive():
    """Those are traced where the gradient is taken: nothing needs values, and nothing is run twice."""
    calls = []

    @jax.jit
    def step(x, weights):
        @jax.custom_vjp
        def weighted(x):
            return jnp.sin(x) * weights

        weighted.defvjp(lambda x: (weighted(x), x), lambda x, g: (g * jnp.cos(x) * weights,))

        def loss(x):
            calls.append(1)
            return jnp.sum(weighted(x))

        return fb.grad(loss)(x)

    np.testing.assert_allclose(step(X, jnp.arange(4.0)), jnp.cos(X) * jnp.arange(4.0), rtol=1e-6)
    assert len(calls) == 1
