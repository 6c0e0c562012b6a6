"""`backward="both"` lets a right gradient pass, and stops at the step after which a wrong one parts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.comparing import gradient_sources
from fnbackprop.comparing.comparison import GradientMismatch
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.training import gradient_check
from fnbackprop.training.loop import train
from fnbackprop.training.step.mixed_precision import Precision


def regression(**changes) -> Experiment:
    def loss(params, batch, key):
        return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) * params["scale"] - batch["y"]) ** 2)

    def batch(step):
        rng = np.random.default_rng(step)
        return {"x": rng.normal(size=(8, 3)).astype(np.float32), "y": rng.normal(size=8).astype(np.float32)}

    init = {"w": jnp.array([0.5, -0.3, 0.2]), "scale": jnp.float32(1)}
    parts = {"name": "r", "init": lambda key: init, "loss": loss, "batch": batch, "optimizer": optax.sgd(0.1)}
    return Experiment(**(parts | {"steps": 9} | changes))


@pytest.fixture
def comparisons(monkeypatch):
    """The verdicts of the full comparisons that were made."""
    made, compare = [], gradient_check.compare

    def counted(*args, **options):
        made.append(compare(*args, **options))
        return made[-1]

    monkeypatch.setattr(gradient_check, "compare", counted)
    return made


def parted(late, right=gradient_sources.BACKWARDS["manual"]):
    """The planted error: 1 % of `w` from where `late(params)` on, in place of a rule that errs beyond some value."""

    def wrong(fun, has_aux=False, **options):
        def value_and_gradient(params, *args):
            value, gradient = right(fun, has_aux=has_aux, **options)(params, *args)
            params, gradient, rest = (
                (params[0], gradient[0], True) if isinstance(params, tuple) else (params, gradient, 0)
            )
            gradient = gradient | {"w": gradient["w"] * jnp.where(late(params), jnp.float32(1.01), jnp.float32(1))}
            return value, (gradient,) if rest else gradient

        return value_and_gradient

    return wrong


def report_of(run):
    """The comparison in a run's folder, and the text of the page's section that shows it."""
    text = (run / "report.html").read_text().split("Is the gradient right?")[1].split("<h2>")[0]
    return json.loads((run / "comparison.json").read_text()), text


def test_training_goes_on_as_by_the_manual_backward(comparisons, tmp_path):
    both = train(regression(), backward="both", compare_every=4, directory=tmp_path, progress=False)
    manual = train(regression(), directory=None, progress=False)
    np.testing.assert_array_equal(both.params["w"], manual.params["w"])
    assert len(comparisons) == 1 and comparisons[0].ok
    found, text = report_of(tmp_path / "r")
    assert found["ok"] and found["steps"] == [0, 4, 8]
    assert all(leaf["largest"] <= leaf["allowed"] for leaf in found["leaves"])
    said = (
        "PASS, the manual gradient against the automatic one at step 0, and held to that at 2 later steps, the last 8:"
    )
    assert said in text and "largest since" in text and "<td>w</td><td>PASS</td>" in text


def test_a_gradient_that_parts_late_stops_the_run(monkeypatch, comparisons, tmp_path):
    monkeypatch.setitem(gradient_sources.BACKWARDS, "manual", parted(lambda params: params["scale"] < 0.85))
    seen = []
    experiment = regression(evaluate=lambda params: seen.append(float(params["scale"])) or {}, evaluate_every=1)
    with pytest.raises(GradientMismatch, match=r"FAIL\s+w ") as raised:
        train(experiment, backward="both", compare_every=2, directory=tmp_path, progress=False, trial=False)
    assert [c.ok for c in comparisons] == [True, False]
    leaves = {leaf.path: leaf for leaf in raised.value.comparison.leaves}
    np.testing.assert_allclose(leaves["w"].ratio, 1.01, rtol=1e-3)
    assert leaves["scale"].verdict == "PASS"
    assert len(seen) % 2 == 0 and seen[-1] < 0.85 <= seen[-3]
    found, text = report_of(tmp_path / "r")
    assert (
        found["steps"] == [len(seen)]
        and f"FAIL, the manual gradient against the automatic one at step {len(seen)}:" in text
    )
    assert "<td>w</td><td>FAIL</td>" in text and "largest since" not in text


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_a_leaf_that_was_zero_or_noise_at_first_is_held_to_more_later(monkeypatch, comparisons, first):
    """What rounding explains is nothing of a zero and anything of what cancels: neither is what it explains later."""
    random = np.random.default_rng(0)
    half = random.normal(size=50).astype(np.float32)
    cancels = np.float32(first) * random.permutation(np.concatenate([half, -half]))

    def loss(params, batch, key):
        return jnp.mean(jnp.tanh(batch) * params["w"]) + jnp.float32(0.1) * params["scale"]

    monkeypatch.setitem(gradient_sources.BACKWARDS, "manual", parted(lambda params: params["scale"] < 0.95))
    parts = {"init": lambda key: {"w": jnp.float32(0.5), "scale": jnp.float32(1)}, "loss": loss}
    experiment = regression(**parts, batch=lambda step: cancels + np.float32(step))
    with pytest.raises(GradientMismatch, match=r"FAIL\s+w "):
        train(experiment, backward="both", compare_every=2, directory=None, progress=False)
    assert [leaf.verdict for leaf in comparisons[0].leaves] == ["PASS", "NOISE-LIMITED" if first else "PASS"]


BFLOAT16 = Precision("float32", "bfloat16", "float32", batch=("*",))


@pytest.mark.parametrize("options", [{"precision": BFLOAT16}, {"accumulate": 2}])
def test_it_compares_what_the_step_computes(comparisons, options):
    train(regression(**options), steps=3, backward="both", compare_every=1, directory=None, progress=False)
    assert {leaf.verdict for leaf in comparisons[0].leaves} <= {"PASS", "NOISE-LIMITED"}
    assert ("bfloat16" in comparisons[0].tolerance) == ("precision" in options)


def test_on_a_mesh(comparisons):
    experiment = regression(sharding={"w": jax.P(), "scale": jax.P()})
    train(experiment, steps=3, backward="both", compare_every=2, mesh="data=4", directory=None, progress=False)
    assert len(comparisons) == 1


def test_compare_every_is_positive():
    with pytest.raises(ExperimentError, match="compare_every must be an integer of at least 1, not 0"):
        train(regression(), backward="both", compare_every=0, directory=None)
