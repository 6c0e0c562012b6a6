"""The state of a model beside its parameters: renewed, saved, resumed, averaged, in the order of the microbatches."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.models import batch_norm, linear
from fnbackprop.training.checkpoints.resuming import load_checkpoint
from fnbackprop.training.loop import make_step, train
from fnbackprop.training.run_folder import read_metrics
from fnbackprop.training.step.state import initial_state
from fnbackprop.updates import Update
from tests.training.checkpoints.test_checkpoint import assert_same_bits
from tests.training.compiling import times_compiled


def normalised(**changes) -> Experiment:
    """A regression through a batch normalisation, with a count of the calls and a key beside its statistics."""

    def init(key):
        params, state = batch_norm.init(width=4)
        others = {"calls": jnp.int32(0), "key": jax.random.key(3)}
        return {"in": linear.init(key, inputs=3, outputs=4, bias=False), "norm": params}, {"norm": state, **others}

    def loss(params, model_state, batch, key):
        y, norm = batch_norm.apply(
            params["norm"], model_state["norm"], linear.apply(params["in"], batch), training=True
        )
        after = {**model_state, "norm": norm, "calls": model_state["calls"] + 1}
        return jnp.mean((jnp.tanh(y) - 0.3) ** 2), after, {"calls": after["calls"]}

    def batch(step):
        return np.random.default_rng(step).normal(size=(16, 3)).astype(np.float32)

    def evaluate(params, model_state):
        y, after = batch_norm.apply(
            params["norm"], model_state["norm"], linear.apply(params["in"], batch(99)), training=False
        )
        chex.assert_trees_all_equal(after, model_state["norm"])
        return {"error": jnp.mean((jnp.tanh(y) - 0.3) ** 2)}

    parts = {"name": "normalised", "init": init, "loss": loss, "batch": batch, "evaluate": evaluate}
    return Experiment(**(parts | {"optimizer": optax.adam(0.01), "steps": 6, "has_state": True} | changes))


def by_hand(experiment: Experiment, steps: int, parts: int = 1):
    """(params, model state) after a bare loop."""
    init_key, loss_key = experiment.keys()
    params, state = experiment.init(init_key)
    opt_state = experiment.optimizer.init(params)
    gradient_of = jax.jit(jax.grad(lambda p, s, b: experiment.loss(p, s, b, loss_key)[:2], has_aux=True))
    for step in range(steps):
        batch, total = experiment.batch(step), None
        for part in range(parts):
            gradient, state = gradient_of(params, state, batch[part::parts])
            total = gradient if total is None else jax.tree.map(jnp.add, total, gradient)
        with jax.numpy_dtype_promotion("standard"):
            mean = jax.tree.map(lambda x: x / parts, total)
            updates, opt_state = experiment.optimizer.update(mean, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("parts", [1, 4])
def test_train_equals_a_bare_loop(parts):
    experiment = normalised(accumulate=parts)
    state = train(experiment, backward="both", compare_every=4, directory=None, progress=False)
    params, model_state = by_hand(experiment, 6, parts)
    chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(state.model_state["norm"], model_state["norm"], rtol=1e-5)
    assert state.model_state["calls"] == 6 * parts and state.model_state["key"] == jax.random.key(3)


def test_resumed_is_the_same_run_to_the_bit(tmp_path):
    experiment = normalised(ema=0.9, ema_of_state=True)
    whole = train(experiment, directory=tmp_path / "whole", progress=False)
    train(experiment, steps=4, directory=tmp_path / "parts", progress=False)
    before = times_compiled("step")
    resumed = train(experiment, directory=tmp_path / "parts", resume=True, progress=False)
    assert times_compiled("step") == before + 1
    assert_same_bits(resumed, whole)
    assert_same_bits(load_checkpoint(experiment, directory=tmp_path / "parts"), whole)
    error = [row["evaluate/error"] for row in read_metrics(tmp_path / "parts/normalised") if "evaluate/error" in row]
    assert error[-1] == float(experiment.evaluate(*whole.evaluated)["error"])


def test_the_average_is_of_the_floating_arrays_if_asked_for():
    step = jax.jit(make_step(normalised(ema=0.9, ema_of_state=True)))
    state = initial_state(normalised(ema=0.9, ema_of_state=True))
    average = np.asarray(state.model_state["norm"]["mean"])
    for number in range(2):
        state, _ = step(state, normalised().batch(number))
        decay = min(0.9, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * np.asarray(state.model_state["norm"]["mean"])
    np.testing.assert_allclose(state.averaged_model_state["norm"]["mean"], average, rtol=1e-5)
    assert state.averaged_model_state["calls"] == 2 and state.averaged_model_state["key"] == jax.random.key(3)
    plain = initial_state(normalised(ema=0.9))
    assert plain.model_state_ema is None and plain.evaluated[1] is plain.model_state


def test_on_a_mesh_the_statistics_are_those_of_the_whole_batch():
    one = train(normalised(accumulate=2), steps=3, directory=None, progress=False)
    split = train(normalised(accumulate=2, sharding="fsdp"), steps=3, mesh="data=4", directory=None, progress=False)
    chex.assert_trees_all_close(split.model_state["norm"], one.model_state["norm"], rtol=1e-5)
    chex.assert_trees_all_close(split.params, one.params, rtol=1e-4, atol=1e-6)


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was():
    experiment = normalised(precision="float16")
    state = initial_state(experiment)
    after, _ = make_step(experiment)(state, np.full((16, 3), np.inf, np.float32))
    assert after.step == 1 and after.loss_scale.value < state.loss_scale.value
    assert_same_bits((after.params, after.model_state), (state.params, state.model_state))
    after, _ = make_step(experiment)(state, experiment.batch(0))
    assert after.model_state["norm"]["mean"].dtype == jnp.float32 and after.model_state["calls"] == 1


@pytest.mark.parametrize(
    "changed, said",
    [
        (lambda state: {**state, "calls": jnp.zeros(2)}, r"calls was \[\] and is \[2\]"),
        (lambda state: {name: x for name, x in state.items() if name != "calls"}, r"calls was \[\] and is absent"),
    ],
)
def test_another_state_than_was_given_is_named(changed, said):
    def loss(params, model_state, batch, key):
        return jnp.sum(params["in"]["w"]), changed(model_state)

    with pytest.raises(ExperimentError, match=said):
        jax.eval_shape(make_step(normalised(loss=loss)), initial_state(normalised()), normalised().batch(0))


def test_what_does_not_fit_is_named():
    experiment = normalised()
    params, state, batch, key = experiment.arguments()
    with pytest.raises(ExperimentError, match=r"init must return \(params, model_state\)"):
        initial_state(normalised(init=lambda key: params))
    with pytest.raises(
        ExperimentError, match=r"return \(scalar, model_state\) or \(scalar, model_state, metrics dict\)"
    ):
        normalised(loss=lambda params, model_state, batch, key: 1.0).outcome(params, batch, key, state)
    with pytest.raises(ExperimentError, match=r"loss is called as loss\(params, model_state, batch, key\)"):
        normalised(loss=lambda params, batch, key: 1.0)
    with pytest.raises(ExperimentError, match="ema_of_state"):
        dataclasses.replace(experiment, ema_of_state=True)


def test_each_of_several_updates_renews_the_state_and_it_is_averaged_once():
    loss = normalised().loss
    updates = [Update("one", loss=loss, optimizer=optax.sgd(0.1)), Update("two", loss=loss, optimizer=optax.sgd(0.1))]
    experiment = normalised(loss=None, optimizer=None, updates=updates, ema=0.9, ema_of_state=True)
    state = initial_state(experiment)
    first = np.asarray(state.model_state["norm"]["mean"])
    after, _ = jax.jit(make_step(experiment))(state, experiment.batch(0))
    assert after.model_state["calls"] == 2
    average = 0.1 * first + 0.9 * np.asarray(after.model_state["norm"]["mean"])
    np.testing.assert_allclose(after.averaged_model_state["norm"]["mean"], average, rtol=1e-5)
