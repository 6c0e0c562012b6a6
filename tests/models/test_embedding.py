import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.models import embedding

PARAMS = embedding.init(jax.random.key(0), vocabulary=7, width=3)


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_value(dtype):
    tokens = jnp.array([[0, 6, 3], [3, 3, 1]], dtype)
    np.testing.assert_array_equal(embedding.apply(PARAMS, tokens), np.asarray(PARAMS["w"])[np.asarray(tokens)])
    np.testing.assert_array_equal(embedding.apply(PARAMS, jnp.asarray(2, dtype)), PARAMS["w"][2])
    low = embedding.apply(PARAMS, tokens, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(low, PARAMS["w"].astype(jnp.bfloat16)[np.asarray(tokens)])


def test_token_beyond_the_vocabulary_gives_nan():
    x = embedding.apply(PARAMS, jnp.array([6, 7, 1000]))
    np.testing.assert_array_equal(np.isnan(x), [[False] * 3, [True] * 3, [True] * 3])


def test_gradient_adds_up_over_equal_tokens():
    tokens = jnp.array([3, 3, 1])
    cotangent = jax.random.normal(jax.random.key(1), (3, 3))
    gradient = jax.grad(lambda p: jnp.vdot(embedding.apply(p, tokens), cotangent))(PARAMS)["w"]
    expected = np.zeros((7, 3))
    np.add.at(expected, np.asarray(tokens), np.asarray(cotangent, np.float64))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_logits():
    x = jax.random.normal(jax.random.key(1), (2, 4, 3))
    expected = np.asarray(x, np.float64) @ np.asarray(PARAMS["w"], np.float64).T
    np.testing.assert_allclose(embedding.logits(PARAMS, x), expected, rtol=1e-5, atol=1e-7)


def test_init_deviation():
    w = embedding.init(jax.random.key(0), vocabulary=500, width=200, deviation=0.3)["w"]
    np.testing.assert_allclose(np.std(w), 0.3, rtol=0.01)
    np.testing.assert_allclose(np.mean(w), 0, atol=4 * 0.3 / np.sqrt(w.size))


def test_tokens_must_be_integers():
    with pytest.raises(TypeError, match="tokens must be integers, got float32"):
        embedding.apply(PARAMS, jnp.zeros(3))
