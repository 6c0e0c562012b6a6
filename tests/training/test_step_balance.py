"""Overshoot and batch sharpness of a run's steps."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb

CURVATURES = np.array([1.0, 4.0], np.float32)


def experiment(rate, **options):
    """A quadratic whose parameters lie along the direction of curvature 4."""

    def loss(params, batch, key):
        return 0.5 * jnp.sum(batch * params["w"].astype(jnp.float32) ** 2)

    given = {
        "name": "quadratic",
        "init": lambda key: {"w": jnp.array([0.0, 1.0])},
        "loss": loss,
        "batch": lambda step: CURVATURES,
        "optimizer": optax.sgd(rate),
        "steps": 4,
    }
    return fb.Experiment(**given | options)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.4])
def test_on_a_quadratic(rate, tmp_path):
    """For gradient descent alpha is rate times curvature - 1."""
    fb.train(experiment(rate), directory=tmp_path, progress=False, balance_every=2)
    rows = [row for row in fb.read_metrics(tmp_path / "quadratic") if "loss" in row]
    assert [("overshoot" in row, "batch_sharpness" in row) for row in rows] == [(True, True), (False, False)] * 2 or (
        rate == 0.25  # at the lowest point there is no gradient
    )
    assert rows[0]["overshoot"] == pytest.approx(4 * rate - 1, abs=1e-6)
    assert rows[0]["rate_over_critical"] == pytest.approx(rate * 4 / 2, abs=1e-6)
    assert rows[0]["batch_sharpness"] == pytest.approx(4, rel=1e-6)
    report = (tmp_path / "quadratic" / "report.html").read_text()
    assert report.count("<meter") == 2 and f'value="{rows[-2].get("rate_over_critical", rate * 2):.4g}"' in report


def test_frozen_parameters_and_low_precision(tmp_path):
    labels = {"w": "train", "frozen": "freeze"}
    optimizer = optax.multi_transform({"train": optax.sgd(0.1), "freeze": optax.set_to_zero()}, labels)
    init = lambda key: {"w": jnp.array([0.0, 1.0]), "frozen": jnp.ones(3)}  # noqa: E731
    fb.train(
        experiment(0.1, init=init, optimizer=optimizer, precision=fb.Precision("float32", "bfloat16", batch=())),
        directory=tmp_path,
        progress=False,
        balance_every=4,
    )
    first, *_ = fb.read_metrics(tmp_path / "quadratic")
    assert first["overshoot"] == pytest.approx(-0.6, abs=0.02)
    assert first["batch_sharpness"] == pytest.approx(4, rel=0.02)


def test_it_tells_of_spikes_and_of_the_course(tmp_path, capsys):
    """The data of one step are ten times as large."""

    def batch(step):
        return CURVATURES * np.float32(100.0 if step == 60 else 1.0)

    fb.train(experiment(1e-3, batch=batch, steps=80), directory=tmp_path, balance_every=50)
    printed = capsys.readouterr().out
    assert "a spike at step 60: update" in printed and "most in w" in printed
    assert "quadratic: still falling: the loss fell from" in printed
    page = (tmp_path / "quadratic/report.html").read_text()
    assert "batch sharpness" in page and "still falling" in page


def test_it_must_be_at_least_one():
    with pytest.raises(fb.ExperimentError, match="balance_every must be an integer of at least 1"):
        fb.train(experiment(0.1), balance_every=0)
