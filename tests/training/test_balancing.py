"""`fb.balance` of small experiments of every kind that `fb.train` takes."""

import ast
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb
from fnbackprop.balancing import branches, procedure
from fnbackprop.training.balancing import subject_of

X = (np.random.default_rng(0).normal(size=(64, 3)) * [1.0, 2.0, 4.0]).astype(np.float32)
Y = X @ np.array([1.0, -1.0, 0.5], np.float32)
LARGEST = float(np.linalg.eigvalsh(X.T @ X / 64).max())


def quadratic(rate=0.1, scale=1.0, **options):
    """A linear regression on all data: its curvature is that of the data."""

    def loss(params, batch, key):
        found = batch["x"] @ (jnp.asarray(scale, params["w"].dtype) * params["w"])
        return 0.5 * jnp.mean((found.astype(jnp.float32) - batch["y"]) ** 2)

    given = {
        "name": "quadratic",
        "init": lambda key: {"w": jnp.ones(3) / scale},
        "loss": loss,
        "batch": lambda step: {"x": X, "y": Y},
        "optimizer": optax.sgd(rate),
        "steps": 20,
    }
    return fb.Experiment(**given | options)


def balance(experiment, **options):
    return fb.balance(experiment, **{"check": False, "range_test": False, "progress": False} | options)


@pytest.fixture
def short(monkeypatch):
    """Fewer steps, for what is asked does not hang on them."""
    monkeypatch.setattr(branches, "STEPS", 6)
    monkeypatch.setattr(procedure, "SETTLING", 4)
    monkeypatch.setattr(procedure, "BATCHES", 3)


@pytest.mark.parametrize(("ratio", "verdict"), [(1e-3, "TOO LOW"), (0.5, "BALANCED"), (5.0, "TOO HIGH: diverging")])
def test_verdicts_on_a_quadratic(ratio, verdict):
    found = balance(quadratic(rate=ratio * 2 / LARGEST))
    assert found.verdict == verdict, found
    assert found.facts.ratio.value == pytest.approx(ratio, rel=1e-5)
    assert found.facts.curvature.largest.value == pytest.approx(LARGEST, rel=1e-5)
    assert found.facts.noise is None and found.ok == (verdict == "BALANCED")
    known = json.loads(found.to_json())
    assert known["verdict"] == verdict and known["ratio"]["value"] == found.facts.ratio.value
    assert str(found).startswith(verdict) and verdict in found.html()
    if verdict == "TOO LOW":
        assert found.multiplier >= 4
    if verdict == "TOO HIGH: diverging":
        assert found.multiplier * ratio < 1


def test_the_suggested_rate_is_tried_where_the_branches_have_not_been(short):
    found = balance(quadratic(rate=1e-3 * 2 / LARGEST))
    tried = [branch.factor for branch in found.facts.branches]
    assert max(tried) == pytest.approx(500, rel=1e-3) and found.multiplier == max(tried)


def test_scaled_parameters_have_another_critical_rate_and_the_same_verdict(short):
    """theta = 10 theta': curvature and critical rate change by 100, and nothing else does."""
    one = balance(quadratic(rate=0.4 / LARGEST))
    other = balance(quadratic(rate=0.4 / LARGEST / 100, scale=10.0))
    assert other.facts.curvature.largest.value == pytest.approx(100 * one.facts.curvature.largest.value, rel=1e-4)
    assert other.facts.ratio.value == pytest.approx(one.facts.ratio.value, rel=1e-4)
    assert other.verdict == one.verdict


def test_momentum_and_adam_have_their_own_critical_rates(short):
    heavy = balance(quadratic(optimizer=optax.sgd(0.01, momentum=0.9)))
    assert heavy.facts.ratio.value == pytest.approx(0.01 * LARGEST / 3.8, rel=1e-3)
    adam = balance(quadratic(optimizer=optax.adam(0.01)))
    assert 0 < adam.facts.ratio.value < 1 and not adam.facts.not_linear


def test_a_warm_up_from_zero_says_why_no_layer_moves(short):
    found = balance(quadratic(optimizer=optax.sgd(optax.linear_schedule(0.0, 0.1, 8))))
    assert found.facts.layers[0].update_to_weight == 0 and "the next update is zero, as at the start" in str(found)
    assert "the next update is zero" not in str(balance(quadratic()))


def test_frozen_parameters_have_no_curvature(short):
    labels = {"w": "train", "frozen": "freeze"}
    optimizer = optax.multi_transform({"train": optax.sgd(0.01), "freeze": optax.set_to_zero()}, labels)
    plain = quadratic()

    def loss(params, batch, key):
        return plain.loss(params, batch, key) + 100 * jnp.sum(params["frozen"] ** 2)

    init = lambda key: {"w": jnp.ones(3), "frozen": jnp.ones(2)}  # noqa: E731
    found = balance(quadratic(init=init, loss=loss, optimizer=optimizer))
    assert found.facts.curvature.largest.value == pytest.approx(LARGEST, rel=1e-4)
    assert [layer.name for layer in found.facts.layers] == ["w"]


@pytest.mark.parametrize(
    "options", [{"accumulate": 4}, {"precision": "bfloat16"}, {"precision": "float16", "ema": 0.9}], ids=str
)
def test_microbatches_and_precisions(options, short):
    found = balance(quadratic(**options))
    assert found.facts.curvature.largest.value == pytest.approx(LARGEST, rel=1e-4)
    assert found.facts.ratio.value == pytest.approx(0.1 * LARGEST / 2, rel=1e-4)


def test_a_mesh(short):
    found = balance(quadratic(), mesh="data=2")
    assert found.facts.curvature.largest.value == pytest.approx(LARGEST, rel=1e-4)


def test_dropout_keys_are_held(short):
    """Products with the Hessian are of one function: the batch and its key stay."""

    def loss(params, batch, key):
        kept = jax.random.bernoulli(key, 0.5, (64,))
        return 0.5 * jnp.mean(jnp.where(kept, X @ params["w"], 0.0) ** 2)

    experiment = quadratic(loss=loss)
    found = balance(experiment)
    _, _, key = experiment.arguments(0)
    kept = np.asarray(jax.random.bernoulli(key, 0.5, (64,)))[:, None]
    largest = np.linalg.eigvalsh((kept * X).T @ X / 64).max()
    assert found.facts.curvature.largest.value == pytest.approx(largest, rel=1e-4)
    assert found.facts.noise is not None


def test_a_custom_vjp_without_forward_mode(short):
    """Its products are differences of gradients, and the output says so."""

    def on_host(x):
        return jax.pure_callback(lambda x: np.asarray(x) ** 2, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    square = jax.custom_vjp(lambda x: x * x)
    square.defvjp(lambda x: (on_host(x), x), lambda x, dy: (2 * dy * jnp.sqrt(on_host(x)) * jnp.sign(x),))

    def loss(params, batch, key):
        return 0.5 * jnp.mean(square(batch["x"] @ params["w"] - batch["y"]))

    found = balance(quadratic(rate=0.01, loss=loss))
    assert found.facts.curvature.largest.value == pytest.approx(LARGEST, rel=1e-2)
    assert "differences of gradients" in str(found)


def test_an_optimizer_without_linear_response_leans_on_the_branches():
    found = balance(quadratic(optimizer=optax.lion(0.05)))
    assert found.facts.ratio is None and found.facts.not_linear in str(found)
    assert found.verdict in ("BALANCED", "TOO LOW")


def test_a_wrong_gradient_is_not_judged(short):
    halved = jax.custom_vjp(lambda x: x * x)
    halved.defvjp(lambda x: (x * x, x), lambda x, dy: (dy * x,))

    def loss(params, batch, key):
        return jnp.mean(halved(batch["x"] @ params["w"] - batch["y"]))

    found = balance(quadratic(loss=loss), check=True)
    assert found.verdict == "CANNOT JUDGE" and not found.ok and found.suggestion is None
    assert "custom_vjp_call" in found.sentence and "test_balancing.py" in found.sentence
    assert found.facts.curvature is None


def test_a_gradient_that_is_not_finite_names_the_line(short):
    found = balance(quadratic(loss=lambda params, batch, key: jnp.sum(jnp.sqrt(params["w"] - params["w"]))))
    assert found.verdict == "CANNOT JUDGE"
    assert "not finite" in found.sentence and "sqrt" in found.sentence


def test_a_later_batch_that_is_not_finite_is_told_from_a_rate_that_is_too_high(short):
    """It is met after `BATCHES`, in the steps of the branches: the loss of step 4 there, or its gradient alone."""
    broken = X.copy()
    broken[5, 1] = np.nan
    found = balance(quadratic(batch=lambda step: {"x": broken if step == 4 else X, "y": Y}))
    assert found.verdict == "CANNOT JUDGE" and found.suggestion is None
    assert found.sentence.startswith("The batch of step 4 breaks the loss before any update, whatever the rate: ")


def test_a_parameter_without_elements_changes_nothing(short):
    found = balance(quadratic(init=lambda key: {"w": jnp.ones(3), "none": jnp.zeros((0, 3))}))
    assert found.verdict == "BALANCED" and found.facts.ratio.value == pytest.approx(0.05 * LARGEST, rel=1e-5), found


def test_an_empty_batch_is_not_judged(short):
    found = balance(quadratic(batch=lambda step: {"x": X[:0], "y": Y[:0]}))
    assert found.verdict == "CANNOT JUDGE" and "not finite" in found.sentence and "div" in found.sentence
    assert "; it reaches the value" in found.sentence and not found.sentence.endswith("..")


@pytest.mark.parametrize(
    "changes", [{"loss": lambda params, batch, key: jnp.mean(batch["y"] ** 2)}, {"optimizer": optax.sgd(0.0)}]
)
def test_parameters_that_do_not_move_are_not_balanced(changes, short):
    found = balance(quadratic(**changes))
    assert found.verdict == "UNDECIDED" and "makes no difference" in found.sentence and found.suggestion is None
    assert "No learning rate is suggested: the losses are the same at every rate near it." in str(found)


def test_a_loss_that_is_no_function_of_its_key(short):
    random = np.random.default_rng()

    def loss(params, batch, key):
        return 0.5 * jnp.mean(((batch["x"] * np.float32(random.random())) @ params["w"] - batch["y"]) ** 2)

    found = balance(quadratic(loss=loss))
    assert found.verdict == "CANNOT JUDGE" and "no function of (params, batch, key)" in found.sentence


def test_interrupted_it_judges_what_is_known(monkeypatch, short):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    stages = tuple(interrupt if stage is procedure.take_branches else stage for stage in procedure.STAGES)
    monkeypatch.setattr(procedure, "STAGES", stages)
    found = balance(quadratic())
    assert found.verdict == "UNDECIDED" and found.facts.interrupted and "interrupted" in str(found)
    assert found.facts.ratio is not None and not found.facts.branches


def test_a_later_state_is_judged_as_it_stands(short):
    experiment = quadratic(optimizer=optax.adam(0.05))
    state = fb.train(experiment, directory=None, progress=False)
    found = balance(experiment, state=state)
    assert found.facts.step == 20 and "at step 20" in str(found)
    assert float(optax.global_norm(jax.tree.map(jnp.subtract, state.params, experiment.init(None)))) > 0  # left alone
    assert not math.isnan(found.facts.ratio.value)


def test_the_rate_is_known_from_the_config_or_the_optimizer():
    @dataclasses.dataclass(frozen=True)
    class Config:
        learning_rate: float = 0.25

    assert subject_of(quadratic(config=Config())).rate == 0.25
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    assert subject_of(quadratic(optimizer=injected)).rate == 0.5
    assert subject_of(quadratic()).rate is None


def test_a_batch_holds_arrays():
    with pytest.raises(fb.ExperimentError, match="'cats', a str: a batch holds arrays"):
        balance(quadratic(batch=lambda step: {"x": X, "y": Y, "name": "cats"}))


def test_only_experiments_are_taken():
    with pytest.raises(fb.ExperimentError, match=r"balance\(experiment\(Config\(\)\)\)"):
        fb.balance(lambda config: None)


def unevenly_scaled(rate, multipliers):
    """A regression by two layers: the parameters of one are ten times too small, those of the other too large."""

    def loss(params, batch, key):
        found = batch["x"][:, :2] @ (10 * params["small"]) + batch["x"][:, 2:] @ (0.1 * params["large"])
        return 0.5 * jnp.mean((found - batch["y"]) ** 2)

    init = lambda key: {"small": jnp.full(2, 0.1), "large": jnp.full(1, 10.0)}  # noqa: E731
    optimizer = optax.chain(optax.sgd(rate), fb.scale_by_layer(multipliers))
    return quadratic(init=init, loss=loss, optimizer=optimizer, steps=100)


def test_multipliers_make_a_better_run():
    """The loop that a user closes: balance, even the layers out, balance again, train."""
    first = balance(unevenly_scaled(1e-3, {}))
    assert first.multipliers["small"] < 0.1 and first.multipliers["large"] > 10
    printed = str(first)  # in a form that can be pasted
    start = printed.index("fb.scale_by_layer({") + len("fb.scale_by_layer(")
    assert ast.literal_eval(printed[start : printed.index("})") + 1]) == pytest.approx(first.multipliers, rel=0.1)

    def end_of_run(multipliers):
        best = 1e-3 * balance(unevenly_scaled(1e-3, multipliers)).multiplier
        experiment = unevenly_scaled(best, multipliers)
        state = fb.train(experiment, directory=None, progress=False)
        return float(experiment.loss(state.params, experiment.batch(0), None))

    assert end_of_run(first.multipliers) < 0.01 * end_of_run({})
