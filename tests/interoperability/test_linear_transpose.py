"""`jax.linear_transpose` of our pullbacks, as solvers of implicit layers take it of a user's `jax.vjp`: what a pullback
multiplies its cotangent with must not depend on the cotangent for JAX. The transpose of a pullback is the JVP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

X = jnp.sin(jnp.arange(12.0)).reshape(3, 4)
TANGENT = jnp.cos(jnp.arange(12.0)).reshape(3, 4)


def softmax(x):
    shifted = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return shifted / jnp.sum(shifted, axis=-1, keepdims=True)


def scanned(x):
    return lax.scan(lambda c, row: (jnp.sin(c) * jnp.max(row) + jnp.min(c), c * row), jnp.ones(4), x)[1]


PROGRAMS = {
    "max": lambda x: jnp.max(jnp.sin(x), axis=-1),
    "softmax": softmax,
    "jitted": jax.jit(lambda x: softmax(2 * x)),
    "vmapped": jax.vmap(lambda row: jnp.sin(row) * jnp.min(row)),
    "scanned": scanned,
    "checkpointed": jax.checkpoint(lambda x: jnp.sin(softmax(x))),
    "vmapped checkpointed": jax.vmap(jax.checkpoint(lambda row: jnp.sin(jnp.exp(row)) * jnp.max(row))),
    "scatter": lambda x: jnp.zeros(4).at[jnp.array([2, 0, 2])].max(jnp.sin(x[:, 0])),
    "conditional": lambda x: lax.cond(jnp.sum(x) < 0, jnp.sin, softmax, x),
    "pooled": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 1), "VALID"),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("jitted", [False, True])
def test_transpose_of_a_pullback_is_the_jvp(name, jitted):
    def transposed(x, tangent):
        y, pullback = fb.vjp(PROGRAMS[name], x)
        return jax.linear_transpose(lambda ct: pullback(ct)[0], y)(tangent)[0]

    wanted = jax.jvp(PROGRAMS[name], (X,), (TANGENT,))[1]
    found = (jax.jit(transposed) if jitted else transposed)(X, TANGENT)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


def test_transpose_of_batched_pullbacks():
    y, pullback = fb.vjp(PROGRAMS["checkpointed"], X)
    transposed = jax.linear_transpose(jax.vmap(lambda ct: pullback(ct)[0]), jnp.stack([y, y]))
    wanted = jax.jvp(PROGRAMS["checkpointed"], (X,), (TANGENT,))[1]
    np.testing.assert_allclose(transposed(jnp.stack([TANGENT, 2 * TANGENT]))[0], [wanted, 2 * wanted], rtol=2e-5)


def test_an_implicit_layer_that_solves_with_a_transposed_pullback():
    """As jaxopt's normal equations: A u = v by conjugate gradients on Aᵀ A, where A u is a pullback."""

    def residual(w, b):
        return w - 0.3 * softmax(w * b) - b

    def gradient(vjp):
        w = lax.fori_loop(0, 60, lambda _, w: 0.3 * softmax(w * X) + X, X)
        product = lambda u: vjp(lambda w: residual(w, X), w)[1](u)[0]  # noqa: E731
        transposed = jax.linear_transpose(product, w)
        u = jax.scipy.sparse.linalg.cg(lambda u: transposed(product(u))[0], transposed(TANGENT)[0], tol=1e-6)[0]
        return -vjp(lambda b: residual(w, b), X)[1](u)[0]

    with fb.drop_in():
        found = gradient(jax.vjp)
    np.testing.assert_allclose(found, gradient(jax.vjp), rtol=1e-4, atol=1e-5)
