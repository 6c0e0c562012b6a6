"""What each layer does in a step, and its multiplier."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb
from fnbackprop.balancing.layers import layer_facts, undoes_scales
from tests.training.test_loop import regression

PARAMS = {
    "up": {"w": jnp.full((2, 2), 2.0), "b": jnp.zeros(2)},
    "down": {"w": jnp.full((2,), 0.5)},
    "zero": jnp.zeros(2),
}


def test_facts_of_layers():
    updates = {
        "up": {"w": jnp.full((2, 2), 0.2), "b": jnp.zeros(2)},
        "down": {"w": jnp.full((2,), 0.2)},
        "zero": jnp.ones(2),
    }
    sharpest = {"up": {"w": jnp.zeros((2, 2)), "b": jnp.array([0.6, 0.0])}, "down": {"w": jnp.array([0.0, 0.8])}}
    found = {layer.name: layer for layer in layer_facts(PARAMS, updates, sharpest | {"zero": jnp.zeros(2)})}
    assert found["up"].update_to_weight == pytest.approx(0.1) and found["down"].update_to_weight == pytest.approx(0.4)
    assert found["up"].multiplier == pytest.approx(2) and found["down"].multiplier == pytest.approx(0.5)
    assert found["up"].share == pytest.approx(0.36) and found["down"].share == pytest.approx(0.64)
    assert found["zero"].multiplier is None and found["zero"].share == 0
    assert layer_facts(PARAMS, updates)[0].share is None


def test_scale_by_layer():
    optimizer = optax.chain(optax.sgd(1.0), fb.scale_by_layer({"up": 2.0, "down/w": 3.0}))
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    np.testing.assert_array_equal(updates["up"]["w"], -4.0)
    np.testing.assert_array_equal(updates["down"]["w"], -1.5)


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="no layer matches 'sideways'; they are down, up, zero"):
        fb.scale_by_layer({"sideways": 2.0}).init(PARAMS)


@pytest.mark.parametrize(
    "optimizer, undone",
    [
        (optax.chain(fb.scale_by_layer({"up": 2.0}), optax.adam(1e-3)), True),
        (optax.chain(optax.clip_by_global_norm(1.0), fb.scale_by_layer({"up": 2.0}), optax.lion(1e-3)), True),
        (optax.chain(optax.adam(optax.linear_schedule(0, 1e-3, 9)), fb.scale_by_layer({"up": 2.0})), False),
        (optax.chain(fb.scale_by_layer({"up": 2.0}), optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9)), False),
        (optax.chain(fb.scale_by_layer({"up": 1.0}), fb.scale_by_layer({}), optax.adam(1e-3)), False),
        (optax.adam(1e-3), False),
    ],
)
def test_what_normalises_after_it_undoes_it(optimizer, undone):
    assert undoes_scales(optimizer, PARAMS, optimizer.init(PARAMS)) is undone


def test_train_refuses_a_chain_that_undoes_it():
    optimizer = optax.chain(fb.scale_by_layer({"w": 2.0}), optax.adam(1e-3))
    with pytest.raises(fb.ExperimentError, match=r"what follows scale_by_layer .* optax.chain\(optax.adam"):
        fb.train(regression(optimizer=optimizer), directory=None, progress=False)
