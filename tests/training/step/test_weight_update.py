"""One step against the same step written out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.training.step.optimizers import Optimizer
from fnbackprop.training.step.state import initial_state
from fnbackprop.training.step.weight_update import compiled, make_update


def noisy_regression(**changes) -> Experiment:
    def loss(params, batch, key):
        inputs = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape, batch["x"].dtype)
        errors = jnp.tanh(inputs @ params["w"]) - batch["y"]
        return jnp.mean(errors**2), {"largest": jnp.max(jnp.abs(errors))}

    def batch(step):
        random = np.random.default_rng((7, step))
        return {"x": random.normal(size=(8, 3)).astype(np.float32), "y": random.normal(size=(8,)).astype(np.float32)}

    parts = {"name": "noisy", "init": lambda key: {"w": jax.random.normal(key, (3,))}, "loss": loss, "batch": batch}
    return Experiment(**(parts | {"optimizer": optax.adam(0.05), "steps": 20} | changes))


@pytest.mark.parametrize("backward", ["manual", "automatic"])
def test_update_is_forward_loss_backward_and_weight_update(backward):
    experiment = noisy_regression()
    state, batch = initial_state(experiment), experiment.batch(0)
    after, metrics = jax.jit(make_update(experiment, backward))(state, batch)

    key = jax.random.fold_in(state.key, 0)
    (loss, aux), gradient = jax.value_and_grad(experiment.loss, has_aux=True)(state.params, batch, key)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = experiment.optimizer.update(gradient, state.opt_state, state.params)
    np.testing.assert_allclose(after.params["w"], state.params["w"] + updates["w"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient["w"]), rtol=1e-5)
    np.testing.assert_allclose(metrics["largest"], aux["largest"], rtol=1e-6)
    assert after.step == 1 and after.key == state.key


def test_each_step_has_its_own_key():
    experiment = noisy_regression(optimizer=optax.sgd(0.0), batch=lambda step: noisy_regression().batch(0))
    state, losses = initial_state(experiment), set()
    for step in range(3):
        state, metrics = make_update(experiment, "automatic")(state, experiment.batch(step))
        losses.add(float(metrics["loss"]))
    assert len(losses) == 3


def test_unknown_backward():
    with pytest.raises(ValueError, match="one of 'manual', 'automatic', not 'magic'"):
        make_update(noisy_regression(), "magic")


def test_a_loss_that_is_no_scalar_is_named():
    experiment = noisy_regression(loss=lambda params, batch, key: params["w"])
    with pytest.raises(ExperimentError, match=r"loss must return a scalar, but it has shape \(3,\)"):
        make_update(experiment)(initial_state(experiment), experiment.batch(0))


def test_a_step_that_overflows_changes_nothing_but_the_loss_scale():
    def loss(params, batch, key):
        return jnp.mean(params["w"] * batch["x"] * batch["x"])

    def batch(step):  # a cotangent of 2**15 * 5 overflows in float16, one of 2**14 * 5 / 2 does not
        return {"x": np.array([[2.0, 1.5], [0.5, 1.0], [0.5, 1.0]][step], np.float32)}

    experiment = noisy_regression(
        init=lambda key: {"w": jnp.ones(2)},
        loss=loss,
        batch=batch,
        precision="float16",
        ema=0.5,
        optimizer=optax.adam(0.1),
    )
    update, before = jax.jit(make_update(experiment)), initial_state(experiment)
    skipped, metrics = update(before, experiment.batch(0))
    assert metrics["loss_scale"] == 2**15 and np.isfinite(metrics["loss"]) and not np.isfinite(metrics["gradient_norm"])
    for name in ("params", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(skipped, name), getattr(before, name))
    assert skipped.step == 1 and skipped.loss_scale.value == 2**14

    after, metrics = update(skipped, experiment.batch(1))
    gradient = np.array([0.25, 1.0]) / 2
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient), rtol=2e-3)
    np.testing.assert_allclose(after.params["w"], [0.9, 0.9], rtol=1e-5)  # Adam's first step: by the rate
    assert after.opt_state[0].count == 1 and after.loss_scale.value == 2**14


def test_everything_at_once_is_compiled_once():
    def loss(params, batch, key):
        return noisy_regression().loss({"w": jnp.stack(params["w"])}, batch, key)

    experiment = noisy_regression(
        init=lambda key: {"w": [0.1, 0.2, 0.3]},  # weakly typed leaves
        loss=loss,
        optimizer=Optimizer(learning_rate=0.05, warmup=2, weight_decay=0.01).build(20),
        accumulate=2,
        precision="float16",
        ema=0.9,
    )
    update, state = compiled(make_update(experiment)), initial_state(experiment)
    for step in range(4):
        state, metrics = update(state, experiment.batch(step))
    assert update._cache_size() == 1 and state.step == 4
    assert set(metrics) == {"loss", "gradient_norm", "update_ratio", "layer_gradient_norms", "largest", "loss_scale"}


def test_the_average_is_what_is_evaluated():
    experiment = noisy_regression(ema=0.5, optimizer=optax.sgd(0.1), precision="float32")
    state, average = initial_state(experiment), None
    for step in range(3):
        before, (state, _) = state, make_update(experiment)(state, experiment.batch(step))
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * (before.params["w"] if average is None else average) + (1 - decay) * state.params["w"]
    np.testing.assert_allclose(state.averaged["w"], average, rtol=1e-6)
    assert not np.allclose(state.averaged["w"], state.params["w"])
    assert initial_state(noisy_regression()).averaged["w"] is not None
