"""What a step changes when its gradient overflows, and the moving average."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnbackprop.experiment import Experiment
from fnbackprop.training.loop import make_step
from fnbackprop.training.step.state import initial_state


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
    update, before = jax.jit(make_step(experiment)), initial_state(experiment)
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


def test_the_average_is_what_is_evaluated():
    experiment = noisy_regression(ema=0.5, optimizer=optax.sgd(0.1), precision="float32")
    state, average = initial_state(experiment), None
    for step in range(3):
        before, (state, _) = state, make_step(experiment)(state, experiment.batch(step))
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * (before.params["w"] if average is None else average) + (1 - decay) * state.params["w"]
    np.testing.assert_allclose(state.averaged["w"], average, rtol=1e-6)
    assert not np.allclose(state.averaged["w"], state.params["w"])
    assert initial_state(noisy_regression()).averaged["w"] is not None
