"""Several weight updates in a step, against a bare loop of JAX and optax; which are left out when; what is recorded."""

import math
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb
from fnbackprop.training.loop import make_step
from fnbackprop.training.step.state import initial_state

HALF = fb.Precision("float32", "float16", "float32", loss_scaling=True, batch=("*",))


def generated(params, batch):
    return batch["z"] @ params["generator"]["w"]


def score(params, x):
    return jnp.tanh(x @ params["critic"]["0"]["w"]) @ params["critic"]["1"]["w"]


def critic_loss(params, batch, key):
    scores = score(params, generated(params, batch))
    scores += 0.01 * jax.random.normal(key, scores.shape, scores.dtype)
    gap = jnp.mean(scores) - jnp.mean(score(params, batch["x"]))
    return gap, {"gap": gap}


def generator_loss(params, batch, key):
    return -jnp.mean(score(params, generated(params, batch)))


def batch(step):
    random = np.random.default_rng((3, step))
    return {name: random.normal(size=(8, 2)).astype(np.float32) for name in ("x", "z")}


def init(key):
    keys = jax.random.split(key, 3)
    shapes = {"critic": {"0": {"w": (2, 5)}, "1": {"w": (5,)}}, "generator": {"w": (2, 2)}}
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return structure.unflatten(jax.random.normal(k, shape) for k, shape in zip(keys, leaves, strict=True))


def gan(critic=None, generator=None, **changes):
    updates = [
        fb.Update("critic", loss=critic_loss, optimizer=optax.adam(0.01), parameters="critic", **(critic or {})),
        fb.Update(
            "generator",
            **{"loss": generator_loss, "optimizer": optax.sgd(0.1), "parameters": "generator"} | (generator or {}),
        ),
    ]
    return fb.Experiment(**{"name": "gan", "init": init, "batch": batch, "steps": 6, "updates": updates} | changes)


def bare_gan(steps, times, every):
    """What `gan` must equal, with nothing but JAX and optax."""
    experiment, adam = gan(), optax.adam(0.01)
    init_key, loss_key = experiment.keys()
    params = init(init_key)
    state, losses = adam.init(params["critic"]), []
    for step in range(steps):
        key, found = jax.random.fold_in(loss_key, step), {}
        for time in range(times):
            own = jax.random.fold_in(jax.random.fold_in(loss_key, zlib.crc32(b"critic")), time)
            own = jax.random.fold_in(own, step)
            (found["critic"], _), gradient = jax.value_and_grad(critic_loss, has_aux=True)(params, batch(step), own)
            with jax.numpy_dtype_promotion("standard"):
                change, state = adam.update(gradient["critic"], state)
            params = params | {"critic": optax.apply_updates(params["critic"], change)}
        if (step + 1) % every == 0:
            found["generator"], gradient = jax.value_and_grad(generator_loss)(params, batch(step), key)
            new = jax.tree.map(lambda w, d: w - 0.1 * d, params["generator"], gradient["generator"])
            params = params | {"generator": new}
        losses.append(found)
    return params, losses


@pytest.mark.parametrize("backward", ["manual", "automatic"])
def test_updates_are_made_as_in_a_bare_loop(backward, tmp_path):
    experiment = gan({"times": 2}, {"every": 3})
    state = fb.train(experiment, backward=backward, directory=tmp_path, progress=False)
    params, losses = bare_gan(6, times=2, every=3)
    chex.assert_trees_all_close(state.params, params, rtol=2e-5)
    rows = fb.read_metrics(tmp_path / "gan")
    assert [row["step"] for row in rows if "generator/loss" in row] == [2, 5]
    for row, found in zip(rows, losses, strict=True):
        for name, loss in found.items():
            np.testing.assert_allclose(row[f"{name}/loss"], loss, rtol=2e-5)
        assert row["loss"] == row["critic/loss"] == row["critic/gap"]  # of what every step makes
    chex.assert_trees_all_equal_shapes(state.opt_state["critic"][0].mu["critic"], params["critic"])
    assert jax.tree.leaves(state.opt_state["generator"]) == []


def test_of_an_update_made_several_times_the_last_is_measured():
    """With `skip_nonfinite`, the norm of each time is needed; the metrics are those of the last time all the same."""
    found = []
    for experiment in (gan({"times": 3}), gan({"times": 3}, skip_nonfinite=1)):
        step, state = make_step(experiment), initial_state(experiment)
        [loop] = [e for e in jax.make_jaxpr(step)(state, batch(0)).eqns if e.primitive.name == "scan"]
        conditions = [e.primitive.name for e in loop.params["jaxpr"].eqns].count("cond")
        found.append((conditions, jax.jit(step)(state, batch(0))[1]))
    (one, only_last), (none, every) = found
    assert (one, none) == (1, 0) and only_last["critic/gradient_norm"] > 0
    chex.assert_trees_all_close(only_last, {name: every[name] for name in only_last}, rtol=1e-6)


def test_a_run_goes_on_where_it_was(tmp_path):
    experiment = gan({"times": 2}, {"every": 3}, ema=0.9)
    whole = fb.train(experiment, directory=None, progress=False)
    fb.train(experiment, steps=4, directory=tmp_path, progress=False)
    again = fb.train(experiment, directory=tmp_path, resume=True, progress=False)
    chex.assert_trees_all_equal(again.params, whole.params)
    chex.assert_trees_all_equal((again.opt_state, again.ema), (whole.opt_state, whole.ema))


def test_other_updates_are_other_settings(tmp_path):
    fb.train(gan(), steps=2, directory=tmp_path, progress=False)
    with pytest.raises(fb.CheckpointError, match="updates.generator.every: 1 there, 2 now"):
        fb.train(gan(None, {"every": 2}), directory=tmp_path, resume=True, progress=False)


def test_each_has_the_gradient_of_its_own_parameters_alone():
    """The critic's step holds no product with the shape of the generator's gradient."""
    part = gan().parts["critic"]
    state = initial_state(part)
    text = str(jax.make_jaxpr(make_step(part))(state, batch(0)))
    assert "f32[2,5]" in text and "f32[8,2] = dot_general" in text  # the forward pass of the generator
    products = [line for line in text.splitlines() if "dot_general" in line and ":f32[2,2]" in line]
    assert not products, products


def test_a_loss_that_is_not_finite_ends_the_run_even_if_it_is_seldom_made(tmp_path):
    def bad(params, batch, key):
        return generator_loss(params, batch, key) + jnp.log(-jnp.ones(()))

    experiment = gan(None, {"every": 2, "loss": bad})
    with pytest.raises(fb.NonFiniteLoss, match="at step 1"):
        fb.train(experiment, directory=tmp_path, progress=False)


@pytest.mark.parametrize("changes", [{"precision": HALF}, {"accumulate": 2}], ids=["float16", "accumulate"])
def test_precision_and_microbatches(changes):
    """Both are near the plain run: rounding alone, and noise of another key, part them."""
    plain = fb.train(gan({"times": 2}, {"every": 2}), directory=None, progress=False)
    other = fb.train(gan({"times": 2}, {"every": 2}, **changes), directory=None, progress=False)
    chex.assert_trees_all_close(other.params, plain.params, rtol=0.03, atol=3e-3)


@pytest.mark.parametrize("changes, times", [({"precision": HALF}, 1), ({"skip_nonfinite": 2}, 2)])
def test_the_average_of_an_update_that_is_left_out_stays(changes, times):
    def overflows(params, batch, key):
        loss = generator_loss(params, batch, key)
        return loss + jnp.where(batch["bad"], jnp.inf, 0).astype(loss.dtype) * jnp.sum(params["generator"]["w"])

    experiment = gan(None, {"loss": overflows, "times": times}, ema=0.5, **changes)
    step, state, averages = jax.jit(make_step(experiment)), initial_state(experiment), []
    for number, bad in enumerate([False, True, False]):
        state, metrics = step(state, batch(number) | {"bad": bad})
        averages.append(state.ema)
        assert "made" not in metrics
    for part, moves in (("critic", True), ("generator", False)):
        first, second, third = (jax.tree.leaves(average[part])[0] for average in averages)
        assert np.array_equal(first, second) is not moves and not np.array_equal(second, third)


def test_layers_that_two_updates_train_are_told_apart(tmp_path):
    fb.train(
        gan(None, {"parameters": None}),
        steps=1,
        directory=tmp_path,
        progress=False,
    )
    row = fb.read_metrics(tmp_path / "gan")[0]
    assert {"gradient_norm/critic/critic/0", "gradient_norm/generator/critic/0", "gradient_norm/generator"} <= set(row)
    squares = row["critic/gradient_norm"] ** 2 + row["generator/gradient_norm"] ** 2
    assert math.isclose(row["gradient_norm"] ** 2, squares, rel_tol=1e-5)


@pytest.mark.parametrize("changes, message", [
    ({"loss": generator_loss}, "leave out loss"),
    ({"updates": [fb.Update("a", loss=generator_loss, optimizer=optax.sgd(1.0))] * 2}, "a name of its own"),
    ({"updates": ["critic"]}, r"must be fb.Update\(name"),
])  # fmt: skip
def test_wrong_updates(changes, message):
    with pytest.raises(fb.ExperimentError, match=message):
        gan(**changes)


@pytest.mark.parametrize("changes, message", [
    ({"name": "watch"}, "name of an update"), ({"every": 0}, "every of the update critic"),
    ({"optimizer": None}, "the optimizer of the update critic"), ({"parameters": 3}, "a pattern of paths"),
])  # fmt: skip
def test_a_wrong_update(changes, message):
    with pytest.raises(fb.ExperimentError, match=message):
        fb.Update(**{"name": "critic", "loss": generator_loss, "optimizer": optax.sgd(1.0)} | changes)


def test_on_a_mesh_the_numbers_are_the_same():
    """Adam's moments of the critic lie where its parameters do, though they are below the update's name."""
    experiment = gan(None, {"every": 2}, sharding="fsdp", steps=2)
    plain = fb.train(experiment, directory=None, progress=False)
    split = fb.train(experiment, directory=None, progress=False, mesh="data=2")
    chex.assert_trees_all_close(split.params, plain.params, rtol=1e-5)
    moment, weight = (tree["critic"]["0"]["w"] for tree in (split.opt_state["critic"][0].mu, split.params))
    assert moment.sharding == weight.sharding and not weight.sharding.is_fully_replicated
