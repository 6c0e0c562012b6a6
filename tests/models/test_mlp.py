import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.models import linear, mlp

KEY = jax.random.key(0)


@pytest.mark.parametrize("activation, in_numpy", [(jax.nn.relu, lambda x: np.maximum(x, 0)), (jnp.tanh, np.tanh)])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_value(hidden, activation, in_numpy):
    params = mlp.init(KEY, inputs=3, hidden=hidden, outputs=2)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    x = jax.random.normal(jax.random.key(1), (5, 4, 3))
    y = np.asarray(x, np.float64)
    for i, layer in enumerate(params["layers"]):
        y = y if i == 0 else in_numpy(y)
        y = y @ np.asarray(layer["w"], np.float64) + np.asarray(layer["b"], np.float64)
    np.testing.assert_allclose(mlp.apply(params, x, activation=activation), y, rtol=1e-4, atol=1e-5)


def test_init_is_he_normal_and_glorot_at_the_end():
    hidden, last = mlp.init(KEY, inputs=300, hidden=(500,), outputs=100)["layers"]
    assert hidden["w"].shape == (300, 500) and last["w"].shape == (500, 100)
    np.testing.assert_allclose(np.std(hidden["w"]), np.sqrt(2 / 300), rtol=0.01)
    np.testing.assert_allclose(np.std(last["w"]), np.sqrt(2 / (500 + 100)), rtol=0.01)


def test_signal_keeps_its_size_through_many_layers():
    params = mlp.init(KEY, inputs=512, hidden=(512,) * 8, outputs=1)
    x = jax.random.normal(jax.random.key(1), (64, 512))
    hidden = mlp.apply({"layers": [*params["layers"][:-1], {"w": jnp.eye(512)}]}, x)
    assert 0.5 < jnp.mean(jnp.square(hidden)) < 2  # He 2015: the mean square stays where it was


def test_dropout_is_after_each_activation():
    """With weights of 1 each mask shows in the output: a dropped unit takes its share away, the rest is doubled."""
    ones = {"w": jnp.ones((1, 1)), "b": jnp.zeros(1)}
    params = {"layers": [ones, ones, ones]}
    keys = jax.random.split(KEY, 200)
    y = jax.vmap(lambda key: mlp.apply(params, jnp.ones(1), dropout=0.5, key=key))(keys)
    values, counts = np.unique(np.asarray(y), return_counts=True)
    np.testing.assert_array_equal(values, [0, 4])  # both units stay once in four times, and then count 2 * 2
    np.testing.assert_allclose(counts[1] / 200, 0.25, atol=0.12)


def test_single_layer_is_linear():
    params = mlp.init(KEY, inputs=3, hidden=(), outputs=2)
    x = jax.random.normal(jax.random.key(1), (5, 3))
    np.testing.assert_array_equal(mlp.apply(params, x, dropout=0.5, key=KEY), linear.apply(params["layers"][0], x))
