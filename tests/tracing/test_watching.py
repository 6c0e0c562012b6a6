"""The sizes of named values, of carries, and of their cotangents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb


def layered(params, x):
    """A residual stream through scanned layers, a branch, and a name given twice."""

    @jax.checkpoint
    def layer(h, w):
        inner = fb.name(jnp.tanh(h @ w), "inner")
        h = lax.cond(jnp.sum(h) > 0, lambda h: h + inner, lambda h: h - 0.5 * inner, h)
        return h, None

    h = fb.name(x, "in")
    h, _ = lax.scan(layer, h, params)
    h = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, fb.name(jnp.sin(s[1]), "hidden")), (0, h))[1]
    return jnp.sum(jax.nn.silu(fb.name(2 * h, "in")) ** 2)


PARAMS = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3)), "float32")
X = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), "float32")


def test_sizes_are_those_of_a_trace():
    found = jax.jit(lambda *args: fb.watch(layered, *args))(PARAMS, X)
    assert set(found.values) == {"in", "in.1", "inner", "carry"}
    assert set(found.cotangents) == {"in.1", "inner", "carry"}  # x is not differentiated
    trace = fb.trace(layered, PARAMS, X, argnums=(0, 1), detailed=True)
    np.testing.assert_allclose(found.value, trace.value, rtol=1e-6)
    (inner,) = (r for r in trace.records if r.name == "inner")
    for mine, theirs in ((found.values, inner.values), (found.cotangents, inner.cotangents)):
        by_step = sorted(theirs, key=lambda seen: seen.iteration)
        np.testing.assert_allclose(mine["inner"], [seen.of[0].rms for seen in by_step], rtol=1e-5)


def test_the_carry_is_the_residual_stream():
    def tail(h, layers):
        h, _ = lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), h, layers)
        return jnp.sum(h**3)

    found = fb.watch(lambda params: tail(X, params), PARAMS)
    h, sizes = X, []
    for i in range(4):
        h = h + jnp.tanh(h @ PARAMS[i])
        sizes.append(jnp.sqrt(jnp.mean(jax.grad(tail)(h, PARAMS[i + 1 :]) ** 2)))
    np.testing.assert_allclose(found.cotangents["carry"], sizes, rtol=1e-5)


def test_it_computes_no_gradient_of_parameters():
    """What only the weights' gradients need is left out by the compiler: fewer products than the gradient has."""

    def products(fun):
        text = jax.jit(fun).lower(PARAMS).compile().as_text()
        return text.count(" dot(") + text.count("__dot") + text.count("custom-call")

    def loss(params):
        h = X
        for i in range(4):
            h = fb.name(jnp.tanh(h @ params[i]), "h")
        return jnp.sum(h)

    assert products(lambda p: fb.watch(loss, p).cotangents) < products(fb.grad(loss))


def test_what_is_refused():
    with pytest.raises(TypeError, match="scalar-output"):
        fb.watch(lambda x: 2 * x, jnp.ones(2))
    assert fb.watch(lambda x: jnp.sum(x**2), jnp.ones(2)).values == {}
