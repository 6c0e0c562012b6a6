import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.models import layer_norm


def random_params(width):
    scale, bias = jax.random.normal(jax.random.key(0), (2, width))
    return {"scale": scale, "bias": bias}


def in_numpy(params, x, epsilon=1e-5):
    x, scale, bias = (np.asarray(a, np.float64) for a in (x, params["scale"], params["bias"]))
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


@pytest.mark.parametrize("shape", [(8,), (4, 8), (2, 3, 4, 8)])
def test_value(shape):
    params = random_params(8)
    x = 3 + 2 * jax.random.normal(jax.random.key(1), shape)
    y = layer_norm.apply(params, x)
    np.testing.assert_allclose(y, in_numpy(params, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, nn.LayerNorm(epsilon=1e-5).apply({"params": params}, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype, unit", [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_low_precision_rounds_only_the_result(dtype, unit):
    params = random_params(512)
    x = (300 + 100 * jax.random.normal(jax.random.key(1), (4, 512))).astype(dtype)  # squares overflow in float16
    y, expected = layer_norm.apply(params, x), in_numpy(params, x)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=1.1 * unit, atol=1e-5)


def test_epsilon_is_inside_the_root():
    params = layer_norm.init(width=4)
    x = jnp.array([1e-3, -1e-3, 1e-3, -1e-3])
    np.testing.assert_allclose(layer_norm.apply(params, x, epsilon=1e-6), x / np.sqrt(2e-6), rtol=1e-5)
    np.testing.assert_array_equal(layer_norm.apply(params, jnp.full(4, 7.0)), 0)


def test_init_is_the_identity_of_a_normalised_input():
    params = layer_norm.init(width=4, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(params["scale"], np.ones(4))
    np.testing.assert_array_equal(params["bias"], np.zeros(4))
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype(jnp.bfloat16)}
