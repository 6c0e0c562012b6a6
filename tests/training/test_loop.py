"""Training against a bare loop, one compilation, going on from a state, and what is written."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.training import data, loop
from fnbackprop.training.compiling import compiled
from fnbackprop.training.errors import NonFiniteLoss
from fnbackprop.training.loop import make_step, train
from fnbackprop.training.record.metrics import curve
from fnbackprop.training.run_folder import read_metrics
from fnbackprop.training.step.optimizers import Optimizer
from fnbackprop.training.step.state import initial_state
from tests.training.step.test_weight_update import noisy_regression


def regression(**changes) -> Experiment:
    def loss(params, batch, key):
        hidden = jnp.tanh(batch["x"] @ params["w"] + 0.1 * jax.random.normal(key, (8, 4)))
        return jnp.mean((hidden @ params["v"] - batch["y"]) ** 2)

    def init(key):
        one, two = jax.random.split(key)
        return {"w": jax.random.normal(one, (3, 4)), "v": jax.random.normal(two, (4,))}

    def batch(step):
        random = np.random.default_rng((1, step))
        return {"x": random.normal(size=(8, 3)).astype(np.float32), "y": random.normal(size=(8,)).astype(np.float32)}

    parts = {
        "name": "regression",
        "init": init,
        "loss": loss,
        "batch": batch,
        "optimizer": optax.adam(0.01),
        "steps": 30,
    }
    return Experiment(**(parts | changes))


def bare_loop(experiment, steps):
    """What `train` must equal, with nothing but JAX and optax."""
    init_key, loss_key = experiment.keys()
    params = experiment.init(init_key)
    opt_state, losses = experiment.optimizer.init(params), []
    value_and_grad = jax.jit(jax.value_and_grad(experiment.loss))
    for step in range(steps):
        key = jax.random.fold_in(loss_key, step)
        loss, gradient = value_and_grad(params, experiment.batch(step), key)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = experiment.optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return params, losses


@pytest.mark.parametrize("backward", ["manual", "automatic"])
def test_train_equals_a_bare_loop(tmp_path, backward):
    state = train(regression(), backward=backward, directory=tmp_path, progress=False)
    params, losses = bare_loop(regression(), 30)
    chex.assert_trees_all_close(state.params, params, rtol=1e-4)
    steps, found = curve(read_metrics(tmp_path / "regression"), "loss")
    assert steps == list(range(30)) and state.step == 30
    np.testing.assert_allclose(found, losses, rtol=1e-4)


@pytest.mark.parametrize("backward", ["manual", "automatic"])
def test_the_step_is_traced_once(monkeypatch, backward):
    chex.clear_trace_counter()
    make_step = loop.make_step
    monkeypatch.setattr(loop, "make_step", lambda *args: chex.assert_max_traces(make_step(*args), n=1))
    parts = {
        "init": lambda key: {**regression().init(key), "v": [0.5, 0.5, 0.5, 0.5]},  # weakly typed leaves
        "loss": lambda params, batch, key: regression().loss({**params, "v": jnp.stack(params["v"])}, batch, key),
    }
    state = train(regression(**parts), backward=backward, directory=None, progress=False)
    assert state.step == 30


def test_the_state_is_donated():
    experiment = regression()
    update = jax.jit(loop.make_step(experiment, "manual"), donate_argnums=0)
    state = initial_state(experiment)
    update(state, experiment.batch(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_going_on_from_a_state_is_the_same_run(tmp_path):
    whole = train(regression(), directory=tmp_path / "whole", progress=False)
    half = train(regression(), steps=13, directory=tmp_path / "parts", progress=False)
    rest = train(regression(), state=half, directory=tmp_path / "parts", progress=False)
    chex.assert_trees_all_equal(whole, rest)
    assert not half.params["w"].is_deleted()
    parts = [row for name in ("regression", "regression-2") for row in read_metrics(tmp_path / "parts" / name)]
    assert read_metrics(tmp_path / "whole/regression") == parts


def test_batches_made_ahead_change_nothing():
    one, two = (train(regression(), directory=None, progress=False, prefetch=ahead) for ahead in (0, 3))
    chex.assert_trees_all_equal(one, two)
    with pytest.raises(ExperimentError, match="prefetch must be an integer of at least 0, not -1"):
        train(regression(), directory=None, progress=False, prefetch=-1)


def test_data_from_an_iterator_go_on_where_they_were(tmp_path):
    drawn = []

    class Loader:  # with Grain's interface
        def __init__(self):
            self.place = 0

        def __next__(self):
            drawn.append(self.place)
            self.place += 1
            return regression().batch(self.place - 1)

        def get_state(self):
            return {"place": self.place}

        def set_state(self, state):
            self.place = state["place"]

    def from_loader():
        return regression(batch=data.from_iterator(Loader), name="loader")

    train(from_loader(), steps=12, directory=tmp_path, progress=False, checkpoint_every=12)
    drawn.clear()
    state = train(from_loader(), directory=tmp_path, progress=False, resume=True)
    assert drawn == list(range(12, 30))
    chex.assert_trees_all_equal(state, train(regression(), directory=None, progress=False))


def test_seeds_differ():
    one, two = (train(regression(seed=seed), directory=None, progress=False) for seed in (1, 2))
    assert not np.allclose(one.params["w"], two.params["w"])


def test_what_a_run_writes_and_says(tmp_path, capsys):
    seen = []

    def evaluate(params):
        seen.append(1)
        return {"size": jnp.sum(params["w"] ** 2)}

    train(regression(evaluate=evaluate, evaluate_every=20), directory=tmp_path)
    folder = tmp_path / "regression"
    written = ["checkpoints", "curves.svg", "metrics.jsonl", "model.safetensors", "report.html", "run.json"] + [
        "times.jsonl"
    ]
    assert sorted(path.name for path in folder.iterdir()) == written
    records = read_metrics(folder)
    assert [record["step"] for record in records if "evaluate/size" in record] == [20, 30] and len(
        seen
    ) == 3  # one is a trial
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].startswith("regression: 30 steps, ") and printed[-2].endswith(" s, manual backward")
    assert printed[-1] == f"regression: metrics.jsonl, curves.svg, report.html in {folder}"


def test_nothing_is_written_without_a_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train(regression(), directory=None, progress=False)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_a_loss_that_becomes_nan_stops_the_run(tmp_path):
    def batch(step):
        found = regression().batch(step)
        return found | {"y": found["y"] * np.float32(math.nan if step == 11 else 1)}

    with pytest.raises(NonFiniteLoss, match="the loss of regression is nan at step 11") as raised:
        train(regression(batch=batch), directory=tmp_path, progress=False)
    assert raised.value.step == 11
    assert (tmp_path / "regression" / "curves.svg").exists()
    assert math.isnan(read_metrics(tmp_path / "regression")[11]["loss"])


def test_train_takes_an_experiment():
    with pytest.raises(ExperimentError, match="train takes an Experiment, not <function"):
        train(regression, directory=None)


# ---------------------------------------------------------------- one step


@pytest.mark.parametrize("backward", ["manual", "automatic"])
def test_step_is_forward_loss_backward_and_weight_update(backward):
    experiment = noisy_regression()
    state, batch = initial_state(experiment), experiment.batch(0)
    after, metrics = jax.jit(make_step(experiment, backward))(state, batch)

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
        state, metrics = make_step(experiment, "automatic")(state, experiment.batch(step))
        losses.add(float(metrics["loss"]))
    assert len(losses) == 3


def test_unknown_backward():
    with pytest.raises(ValueError, match="one of 'manual', 'fused', 'automatic', not 'magic'"):
        make_step(noisy_regression(), "magic")


def test_a_loss_that_is_no_scalar_is_named():
    experiment = noisy_regression(loss=lambda params, batch, key: params["w"])
    with pytest.raises(ExperimentError, match=r"loss must return a scalar, but it has shape \(3,\)"):
        make_step(experiment)(initial_state(experiment), experiment.batch(0))


def test_everything_at_once_is_compiled_once():
    traced = []

    def loss(params, batch, key):
        traced.append(1)
        return noisy_regression().loss({"w": jnp.stack(params["w"])}, batch, key)

    experiment = noisy_regression(
        init=lambda key: {"w": [0.1, 0.2, 0.3]},  # weakly typed leaves
        loss=loss,
        optimizer=Optimizer(learning_rate=0.05, warmup=2, weight_decay=0.01).build(20),
        accumulate=2,
        precision="float16",
        ema=0.9,
    )
    update, state = compiled(make_step(experiment)), initial_state(experiment)
    state, metrics = update(state, experiment.batch(0))
    once = len(traced)
    for step in range(1, 4):
        state, metrics = update(state, experiment.batch(step))
    assert len(traced) == once and state.step == 4
    standard = {"loss", "gradient_norm", "update_ratio", "layer_gradient_norms", "learning_rate", "loss_scale"}
    assert set(metrics) == standard | {"largest"}
