"""Parameters that the optimizer never changes are found, and cost no backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.training.loop import make_step
from fnbackprop.training.step.state import initial_state
from fnbackprop.training.step.trainable import divide, joined, trained_only
from fnbackprop.training.step.weight_update import WeightUpdate
from tests.training.step.test_weight_update import noisy_regression

LABELS = {"deep": "frozen", "head": "trained"}


def two_layers(optimizer, **changes):
    def init(key):
        return {"deep": {"w": jax.random.normal(key, (3, 4)), "b": jnp.ones(4)}, "head": {"w": jnp.ones(4)}}

    def loss(params, batch, key):
        hidden = jnp.tanh(batch["x"] @ params["deep"]["w"] + params["deep"]["b"][None])
        return jnp.mean(((hidden @ params["head"]["w"]).astype(jnp.float32) - batch["y"]) ** 2)

    return noisy_regression(init=init, loss=loss, optimizer=optimizer, **changes)


def split(transformation):
    return optax.multi_transform({"trained": transformation, "frozen": optax.set_to_zero()}, LABELS)


FROZEN = {
    "multi_transform": lambda: split(optax.adam(0.1)),
    "scaled afterwards": lambda: optax.chain(
        split(optax.scale_by_adam()), optax.scale_by_learning_rate(lambda step: 0.1)
    ),
    "a mask": lambda: optax.chain(optax.adam(0.1), optax.masked(optax.set_to_zero(), {"deep": True, "head": False})),
    "partition": lambda: optax.partition({"trained": optax.sgd(0.1), "frozen": optax.set_to_zero()}, LABELS),
}
TRAINED = {
    "all": lambda: optax.adam(0.1),
    "the mask of masked lets the rest through": lambda: optax.masked(optax.adam(0.1), {"deep": False, "head": True}),
    "decay moves them": lambda: optax.chain(split(optax.adam(0.1)), optax.add_decayed_weights(-0.1)),
    "now and then": lambda: optax.MultiSteps(optax.sgd(0.1), 2),
}


def flags(experiment):
    state = initial_state(experiment)
    return WeightUpdate(experiment).trainable(state, experiment.batch(0), state.key)


@pytest.mark.parametrize("name", FROZEN)
def test_what_gets_no_update_is_found(name):
    assert flags(two_layers(FROZEN[name]())) == [False, False, True]


@pytest.mark.parametrize("name", TRAINED)
def test_what_gets_one_is_trained(name):
    assert flags(two_layers(TRAINED[name]())) == [True, True, True]


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"precision": "bfloat16"}])
def test_frozen_parameters_have_no_backward_pass_and_the_rest_trains_as_before(changes):
    experiment = two_layers(FROZEN["multi_transform"](), **changes)
    state, batch = initial_state(experiment), experiment.batch(0)
    after, metrics = jax.jit(make_step(experiment))(state, batch)
    key = jax.random.fold_in(state.key, 0)
    gradient = jax.grad(experiment.loss)(state.params, batch, key)
    tolerance = {"rtol": 3e-2 if "precision" in changes else 1e-5}
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient["head"]["w"]), **tolerance)
    assert metrics["layer_gradient_norms"].names == ("head",)
    for name in ("w", "b"):
        np.testing.assert_array_equal(after.params["deep"][name], state.params["deep"][name])
    np.testing.assert_allclose(after.params["head"]["w"], 1 - 0.1 * np.sign(gradient["head"]["w"]), rtol=1e-3)
    if not changes:  # products: two of the forward pass, one for the head's gradient
        assert str(jax.make_jaxpr(make_step(experiment))(state, batch)).count("dot_general[") == 3


def test_a_tree_is_divided_and_joined():
    tree, trainable = {"a": 1, "b": [2, 3]}, [True, False, True]
    assert divide(tree, trainable) == ([1, 3], [2]) and divide(tree, None) == (tree, [])
    assert joined([1, 3], [2], tree, trainable) == tree == joined(tree, [], tree, None)
    assert trained_only(tree, trainable) == {"a": 1, "b": [None, 3]} and trained_only(tree, None) is tree
