"""An experiment's functions are checked when it is made, and when its loss is first called."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.experiment_checks import check_evaluation


def quadratic(**changes) -> Experiment:
    parts = {
        "name": "quadratic",
        "init": lambda key: {"w": jax.random.normal(key, (3,))},
        "loss": lambda params, batch, key: jnp.sum((params["w"] - batch) ** 2),
        "batch": lambda step: np.full((3,), step, np.float32),
        "optimizer": optax.sgd(0.1),
        "steps": 10,
    }
    return Experiment(**(parts | changes))


def test_arguments_are_a_function_of_seed_and_step():
    params, batch, key = quadratic(seed=3).arguments(step=2)
    again, _, same_key = quadratic(seed=3).arguments(step=2)
    other, _, _ = quadratic(seed=4).arguments(step=2)
    np.testing.assert_array_equal(params["w"], again["w"])
    np.testing.assert_array_equal(batch, [2, 2, 2])
    assert key == same_key and key != quadratic(seed=3).arguments(step=1)[2]
    assert not np.array_equal(params["w"], other["w"])


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        quadratic().steps = 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "a/b"}, "name of a folder.*'a/b'"),
        ({"name": ""}, "name of a folder"),
        ({"init": 3}, r"init must be a function init\(key\), not 3"),
        ({"init": lambda: 0}, r"init is called as init\(key\)"),
        ({"loss": lambda params, batch: 0.0}, r"loss is called as loss\(params, batch, key\).*test_experiment.py:\d+"),
        ({"batch": lambda step, seed: 0}, r"batch is called as batch\(step\).*seed"),
        ({"evaluate": lambda: {}}, r"evaluate is called as evaluate\(params\)"),
        ({"optimizer": 0.1}, r"optax.adam\(1e-3\), not 0.1"),
        ({"steps": 0}, "steps must be an integer of at least 1, not 0"),
        ({"steps": 1.5}, "steps must be an integer"),
        ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
        ({"seed": True}, "seed must be an integer"),
        ({"evaluate_every": 0}, "evaluate_every must be an integer of at least 1"),
    ],
)
def test_construction_errors(changes, message):
    with pytest.raises(ExperimentError, match=message):
        quadratic(**changes)


@pytest.mark.parametrize(
    "result, message",
    [
        (jnp.zeros((2,)), r"shape \(2,\); take its mean"),
        (jnp.zeros((), jnp.int32), "dtype is int32"),
        ("low", "a real scalar, but it returned 'low', a str"),
        ((jnp.zeros(()), {}, 1), "a tuple of 3"),
        ((jnp.zeros(()), jnp.zeros(())), "must be a dict of scalars"),
        ((jnp.zeros(()), {"loss": jnp.zeros(())}), "'loss' has a name that training uses"),
        ((jnp.zeros(()), {"hits": jnp.zeros((4,))}), r"'hits' of loss must be a real scalar, .* of shape \(4,\)"),
    ],
)
def test_loss_errors(result, message):
    experiment = quadratic(loss=lambda params, batch, key: result)
    with pytest.raises(ExperimentError, match=message):
        experiment.outcome(*experiment.arguments())


STATE = {"norm": {"mean": jnp.zeros(3)}}


@pytest.mark.parametrize("after", [(STATE,), (STATE, {}), (jnp.zeros(3),), ({"mean": jnp.zeros(3)},)])
def test_a_model_state_of_which_the_experiment_was_not_told(after):
    experiment = quadratic(loss=lambda params, batch, key: (jnp.zeros(()), *after))
    with pytest.raises(ExperimentError, match="If the second is the model state, tell the Experiment: has_state=True"):
        experiment.outcome(*experiment.arguments())
    with pytest.raises(ExperimentError, match="If the second is the model state, tell the Experiment: has_state=True"):
        quadratic(loss=lambda params, model_state, batch, key: 0.0)
    with pytest.raises(ExperimentError, match="by has_state=True: leave that out, if the model has no state"):
        quadratic(has_state=True)


def test_the_outcome_has_one_form():
    plain = quadratic()
    paired = quadratic(loss=lambda *args: (plain.loss(*args), {"largest": jnp.max(args[0]["w"])}))
    value, metrics, _ = plain.outcome(*plain.arguments())
    same, largest, _ = paired.outcome(*plain.arguments())
    assert metrics == {} and value == same
    assert largest["largest"] == jnp.max(plain.arguments()[0]["w"])


@pytest.mark.parametrize(
    "values, message",
    [
        (jnp.ones(3), r"evaluate must return a dict of scalars, .* but it returned an array of shape \(3,\)"),
        (0.5, "evaluate must return a dict .* but it returned 0.5, a float"),
        ({"val": {"loss": 1.0, "accuracy": 2.0}}, "'val' of evaluate is a dict: .* 'val/loss', 'val/accuracy'"),
        ({"said": "good"}, "'said' of evaluate must be a real scalar, but it is 'good', a str"),
        ({"each": jnp.ones(3)}, r"'each' of evaluate must be a real scalar, but it is an array of shape \(3,\)"),
        ({"z": jnp.complex64(1)}, "'z' of evaluate must be a real scalar, but it is a scalar of complex64"),
    ],
)
def test_what_evaluate_must_return(values, message):
    with pytest.raises(ExperimentError, match=message):
        check_evaluation(values)
    check_evaluation({"a": 1, "b": True, "c": jnp.float32(1), "d": 0.5})


@pytest.mark.parametrize("changes, message", [
    ({"sharding": "fdsp"}, "sharding must be one of replicate, data, fsdp, tensor, fsdp.tensor, .* not 'fdsp'"),
    ({"sharding": None}, "not None"), ({"sharding": ["data"]}, "sharding must be one of"),
    ({"has_state": "yes"}, "has_state must be True or False, not 'yes'"),
    ({"ema_of_state": 1}, "ema_of_state must be True or False, not 1"),
])  # fmt: skip
def test_what_is_no_setting_is_told_when_it_is_made(changes, message):
    with pytest.raises(ExperimentError, match=message):
        quadratic(**changes)


@pytest.mark.parametrize("batch, note", [
    (None, "the batch None, as batch(step) returned it: is its `return` missing?"),
    (np.ones((2, 5), np.float32), "this batch, as batch(step) returned it: float32[2, 5]"),
    ({"x": np.ones(4, np.int32)}, "returned it: {'x': 'int32[4]'}"),
])  # fmt: skip
def test_an_error_of_the_loss_names_the_batch(batch, note):
    made = quadratic()
    for call in (made.outcome, jax.jit(made.outcome)):
        with pytest.raises(Exception) as caught:
            call({"w": jnp.ones(3)}, batch, jax.random.key(0))
        assert sum(note in said for said in caught.value.__notes__) == 1
