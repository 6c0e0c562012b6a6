"""The assertion for other people's test suites: it passes what is right and fails planted errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.comparing.weighted import differentiable

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), "float32")
SCALE = jnp.asarray(np.random.default_rng(1).normal(size=(1, 6)), "float32")


def rms_norm(mean):
    """A user's own backward, with this in the place of the mean over the last axis."""

    @jax.custom_vjp
    def norm(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True)) * scale

    def backward(saved, dy):
        x, scale = saved
        r = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True))
        dn = dy * scale
        dx = r * dn - x * r**3 * mean(dn * x)
        return dx, jnp.sum(dy * x * r, axis=0, keepdims=True)

    norm.defvjp(lambda x, scale: (norm(x, scale), (x, scale)), backward)
    return norm


def test_a_right_custom_vjp_passes():
    result = fb.testing.assert_gradients_match(rms_norm(lambda a: jnp.mean(a, -1, keepdims=True)), X, SCALE)
    assert [leaf.path for leaf in result.leaves] == ["args[0]", "args[1]"]


def test_a_wrong_custom_vjp_fails():
    """Planted: the sum for the mean."""
    with pytest.raises(fb.testing.GradientMismatch, match="FAIL"):
        fb.testing.assert_gradients_match(rms_norm(lambda a: jnp.sum(a, -1, keepdims=True)), X, SCALE)


def test_it_is_an_assertion_error_with_the_comparison():
    with pytest.raises(AssertionError) as caught:
        fb.testing.assert_gradients_match(rms_norm(lambda a: 0 * a), X, SCALE, directions=2)
    assert not caught.value.comparison.ok


def test_argnums_and_auxiliary_outputs():
    def loss(params, x, count):
        return jnp.sum(jnp.tanh(x * params["w"]) ** 2), {"count": count}

    result = fb.testing.assert_gradients_match(loss, {"w": SCALE}, X, jnp.int32(3), argnums=0, has_aux=True)
    assert [leaf.path for leaf in result.leaves] == ["w"]


def test_what_is_differentiable():
    assert differentiable((X, 3, jnp.arange(3), {"a": 1.0, "b": X}, jax.random.key(0))) == (0, 3)
    with pytest.raises(TypeError, match="nothing to differentiate"):
        fb.testing.assert_gradients_match(lambda i: i, jnp.arange(3))
