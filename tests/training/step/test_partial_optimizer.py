"""An optimizer of some parameters: the others stay, it keeps nothing about them, and what it asks for is of its own."""

import dataclasses

import chex
import jax
import optax
import pytest

import fnbackprop as fb
from fnbackprop.training.step.partial_optimizer import of_parameters
from fnbackprop.training.step.state import initial_state
from tests.training.step.test_trainable import flags, two_layers


@pytest.mark.parametrize("trainable, trained", [("head", [0, 0, 1]), (["deep/b", "head"], [1, 0, 1]), ("w", [0, 1, 1])])
def test_the_others_are_frozen(trainable, trained):
    experiment = two_layers(optax.adamw(0.1), trainable=trainable)
    assert flags(experiment) == list(map(bool, trained))
    before, after = initial_state(experiment), fb.train(experiment, steps=2, directory=None, progress=False)
    for flag, one, other in zip(trained, *map(jax.tree.leaves, (before.params, after.params)), strict=True):
        assert bool((one != other).any()) is bool(flag)
    moments = after.opt_state[0].mu
    assert len(jax.tree.leaves(moments)) == sum(trained)


def test_it_is_the_optimizer_itself_on_its_part():
    """L-BFGS, which asks for the loss as a function of its own parameters, as in a loss of these alone."""
    experiment = two_layers(optax.lbfgs(), trainable="head")
    state = fb.train(experiment, steps=3, directory=None, progress=False)
    deep = initial_state(experiment).params["deep"]
    alone = dataclasses.replace(
        experiment,
        trainable=None,
        init=lambda key: {"head": experiment.init(key)["head"]},
        loss=lambda params, batch, key: experiment.loss(params | {"deep": deep}, batch, key),
    )
    found = fb.train(alone, steps=3, directory=None, progress=False)
    chex.assert_trees_all_close(state.params["head"], found.params["head"], rtol=1e-5)
    chex.assert_trees_all_equal(state.params["deep"], deep)


def test_a_pattern_that_names_nothing_is_refused():
    with pytest.raises(fb.ExperimentError, match="no parameter matches 'tail'; they are deep/b, deep/w, head/w"):
        initial_state(two_layers(optax.adam(0.1), trainable=["head", "tail"]))


def test_all_of_them_is_the_optimizer_as_it_is():
    params = {"a": 1.0, "b": 2.0}
    chex.assert_trees_all_equal(of_parameters(optax.adam(0.1), ["a", "b"]).init(params), optax.adam(0.1).init(params))
