import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

from fnbackprop.models import linear

KEY = jax.random.key(0)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (0, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_value(shape, bias):
    params = linear.init(KEY, inputs=3, outputs=5, bias=bias)
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)  # the bias too
    x = jax.random.normal(jax.random.key(1), shape)
    y = linear.apply(params, x)
    expected = np.asarray(x, np.float64) @ np.asarray(params["w"], np.float64) + (0.5 if bias else 0.0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    flax_params = {"kernel": params["w"]} | ({"bias": params["b"]} if bias else {})
    np.testing.assert_allclose(y, nn.Dense(5, use_bias=bias).apply({"params": flax_params}, x), rtol=1e-5, atol=1e-6)


def test_init_is_glorot_uniform():
    params = linear.init(KEY, inputs=300, outputs=500)
    limit = np.sqrt(6 / (300 + 500))
    assert 0.999 * limit < np.max(np.abs(params["w"])) <= limit
    np.testing.assert_allclose(np.std(params["w"]), limit / np.sqrt(3), rtol=0.01)
    np.testing.assert_allclose(np.mean(params["w"]), 0, atol=4 * limit / np.sqrt(3) / np.sqrt(300 * 500))
    np.testing.assert_array_equal(params["b"], 0)


def test_init_by_another_initializer():
    params = linear.init(KEY, inputs=3, outputs=5, initializer=initializers.constant(2.0), bias=False)
    assert list(params) == ["w"]
    np.testing.assert_array_equal(params["w"], np.full((3, 5), 2.0))


@pytest.mark.parametrize("shape", [(4,), (4, 5), ()])
def test_wrong_features(shape):
    with pytest.raises(ValueError, match=r"must have 3 features on its last axis"):
        linear.apply(linear.init(KEY, inputs=3, outputs=5), jnp.ones(shape))
