"""One step against the same step written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.training.state import initial_state
from fnbackprop.training.step import make_update


def noisy_regression(**changes) -> Experiment:
    def loss(params, batch, key):
        inputs = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
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
