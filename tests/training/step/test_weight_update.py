"""What a step changes when its gradient overflows, and the moving average."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.training.compiling import compiled
from fnbackprop.training.loop import make_step
from fnbackprop.training.step.state import initial_state


def noisy_regression(**changes) -> Experiment:
    def loss(params, batch, key):
        inputs = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape, batch["x"].dtype)
        errors = jnp.tanh(inputs @ params["w"]).astype(batch["y"].dtype) - batch["y"]
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


@pytest.mark.parametrize("accumulate", [1, 2])
def test_complex_parameters_go_downhill_and_so_does_their_average(accumulate):
    """JAX's gradient of |w - t|^2 is conj(w - t): without its conjugate, w goes away from t."""
    target = np.array([3.0, -2.0]) + 1j * np.array([1.0, 4.0])

    def loss(params, batch, key):
        return jnp.sum(jnp.abs(params["w"] - batch["t"].mean(0)) ** 2)

    experiment = noisy_regression(
        init=lambda key: {"w": jnp.zeros(2, jnp.complex64)},
        loss=loss,
        batch=lambda step: {"t": np.stack([target, target]).astype(np.complex64)},
        optimizer=optax.sgd(0.1),
        ema=0.9,
        accumulate=accumulate,
    )
    update, state = compiled(make_step(experiment)), initial_state(experiment)
    distances, expected, average = [], np.zeros(2, complex), np.zeros(2, complex)
    for step in range(6):
        state, metrics = update(state, experiment.batch(step))
        expected = expected - 0.2 * (expected - target)
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * expected
        distances.append(float(metrics["loss"]))
    np.testing.assert_allclose(state.params["w"], expected, rtol=1e-5)
    np.testing.assert_allclose(state.averaged["w"], average, rtol=1e-5)
    assert distances == sorted(distances, reverse=True) and update._cache_size() == 1


EXTRA = {
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)),
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "momo": lambda: optax.contrib.momo(),
    "lbfgs": lambda: optax.lbfgs(memory_size=2),
}


@pytest.mark.parametrize("name", EXTRA)
def test_optimizers_are_given_what_optax_lets_them_ask_for(name):
    experiment = noisy_regression(optimizer=EXTRA[name](), batch=lambda step: noisy_regression().batch(0))
    state, batch = initial_state(experiment), experiment.batch(0)
    after, _ = jax.jit(make_step(experiment))(state, batch)

    def value_fn(params):
        return experiment.loss(params, batch, jax.random.fold_in(state.key, 0))[0]

    with jax.numpy_dtype_promotion("standard"):
        value, gradient = jax.value_and_grad(value_fn)(state.params)
        more = {"value": value, "grad": gradient, "value_fn": value_fn}
        updates, _ = jax.jit(lambda: experiment.optimizer.update(gradient, state.opt_state, state.params, **more))()
    np.testing.assert_allclose(after.params["w"], state.params["w"] + updates["w"], rtol=1e-4, atol=1e-6)


def test_an_argument_that_no_optimizer_is_given_is_named():
    def update(updates, state, params=None, *, hessian, **others):
        return updates, state

    asking = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    experiment = noisy_regression(optimizer=asking)
    with pytest.raises(ExperimentError, match="asks for an argument that it is not given: .*'hessian'. train gives"):
        make_step(experiment)(initial_state(experiment), experiment.batch(0))
