"""Another gradient than the loss's, and steps of the user's own, against bare loops; checkpoints go on as ever."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import fnbackprop as fb
from tests.training.test_loop import bare_loop, regression

ONE, TWO = regression().loss, lambda params, batch, key: jnp.mean((params["w"] - 1) ** 2) + jnp.sum(params["v"] ** 2)


def sharpness_aware(value_and_grad, params, batch, key):
    """P. Foret et al., Sharpness-Aware Minimization, 2021: the gradient a little uphill."""
    _, gradient = value_and_grad(ONE)(params, batch, key)
    scale = 0.05 / optax.tree.norm(gradient)
    return value_and_grad(ONE)(jax.tree.map(lambda w, g: w + scale * g, params, gradient), batch, key)


def projected(value_and_grad, params, batch, key):
    """T. Yu et al., Gradient Surgery, 2020: of two gradients in conflict, each without its part along the other."""
    (one, _), g = value_and_grad(ONE)(params, batch, key)
    (two, _), h = value_and_grad(TWO)(params, batch, key)
    conflict = jnp.minimum(optax.tree.vdot(g, h), 0.0)
    of_g, of_h = conflict / optax.tree.vdot(h, h), conflict / optax.tree.vdot(g, g)
    return (one + two, {"one": one}), jax.tree.map(lambda x, y: x - of_g * y + y - of_h * x, g, h)


def by_hand(experiment, gradient, steps):
    """Plain descent along `gradient`, with JAX alone."""
    init_key, loss_key = experiment.keys()
    params = experiment.init(init_key)

    def value_and_grad(loss):
        return lambda *arguments: ((loss(*arguments), {}), jax.grad(loss)(*arguments))

    for step in range(steps):
        _, change = gradient(value_and_grad, params, experiment.batch(step), jax.random.fold_in(loss_key, step))
        params = jax.tree.map(lambda w, d: w - 0.1 * d, params, change)
    return params


@pytest.mark.parametrize("gradient", [sharpness_aware, projected])
def test_another_gradient(gradient):
    experiment = regression(gradient=gradient, optimizer=optax.sgd(0.1))
    state = fb.train(experiment, steps=3, directory=None, progress=False)
    chex.assert_trees_all_close(state.params, by_hand(experiment, gradient, 3), rtol=1e-4)


def test_an_update_may_have_its_own_gradient():
    update = fb.Update("w", loss=ONE, optimizer=optax.sgd(0.1), parameters="w", gradient=sharpness_aware)
    experiment = regression(loss=None, optimizer=None, updates=[update])
    state = fb.train(experiment, steps=1, directory=None, progress=False)
    chex.assert_trees_all_equal(state.params["v"], experiment.init(experiment.keys()[0])["v"])


def plain_step(state, batch, key, value_and_grad):
    """What training does anyway."""
    (loss, _), gradient = value_and_grad(ONE)(state.params, batch, key)
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optax.adam(0.01).update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient), "own": 2 * loss}
    return dataclasses.replace(state, params=params, opt_state=opt_state), metrics


def test_a_step_of_ones_own_is_saved_and_goes_on(tmp_path):
    experiment = regression(step=plain_step)
    fb.train(experiment, steps=4, directory=tmp_path, progress=False, backward="automatic")
    state = fb.train(experiment, steps=8, directory=tmp_path, progress=False, backward="automatic", resume=True)
    chex.assert_trees_all_close(state.params, bare_loop(regression(), 8)[0], rtol=1e-4)
    rows = fb.read_metrics(tmp_path / "regression")
    assert int(state.step) == 8 and [row["step"] for row in rows] == list(range(8))
    assert all(row["own"] == 2 * row["loss"] and row["update_ratio"] > 0 for row in rows)


@pytest.mark.parametrize("changes, message", [
    ({"step": lambda state, batch, key, value_and_grad: state}, r"must return \(state, metrics\)"),
    ({"step": lambda state, batch, key, value_and_grad: (state, {"loss": 1.0})}, "must hold 'gradient_norm'"),
    ({"step": lambda state, batch, key: state}, r"step is called as step\(state, batch, key, value_and_grad\)"),
    ({"gradient": lambda value_and_grad, params, batch, key: params}, r"must return \(\(loss, metrics\), gradient\)"),
    ({"gradient": lambda v, params, batch, key: ((1.0, {}), {"w": params["w"]})}, "but v is absent"),
])  # fmt: skip
def test_what_they_must_return(changes, message):
    with pytest.raises(fb.ExperimentError, match=message):
        fb.train(regression(**changes), steps=1, directory=None, progress=False)
