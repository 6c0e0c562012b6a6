"""The adding problem is what it says, the gradient's reach is measured, and a short run ends as promised."""

import dataclasses

import jax
import numpy as np
import pytest

from .loading import load_module, promised_numbers


@pytest.fixture(scope="module")
def recurrent():
    return load_module("recurrent")


def test_the_sums_are_those_of_the_marked(recurrent):
    batch = recurrent.additions(3, recurrent.Config(length=9, batch_size=50))
    numbers, marks = batch["inputs"][..., 0], batch["inputs"][..., 1]
    assert np.all(marks[:, :4].sum(axis=1) == 1) and np.all(marks.sum(axis=1) == 2)
    np.testing.assert_allclose((numbers * marks).sum(axis=1), batch["targets"][:, 0], rtol=1e-6)


def test_a_short_run(recurrent, in_memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recurrent, "PICTURE", str(tmp_path / "reach.png"))
    recurrent.show(recurrent.Config(length=6, hidden=4, steps=3, batch_size=4))
    promised_numbers(recurrent, capsys.readouterr().out)
    assert (tmp_path / "reach.png").exists()


def test_reach_is_the_gradient_by_finite_differences(recurrent):
    made = recurrent.experiment(recurrent.Config(model="rnn", length=5, hidden=4, batch_size=2))
    params, batch, _ = made.arguments()
    norms, h, loss = np.zeros(5), 1e-2, jax.jit(made.loss)
    for time in range(5):
        for row, feature in np.ndindex(2, 2):
            step = np.zeros_like(batch["inputs"])
            step[row, time, feature] = h
            up, down = (loss(params, batch | {"inputs": batch["inputs"] + side}, None) for side in (step, -step))
            norms[time] += ((up - down) / (2 * h)) ** 2
    np.testing.assert_allclose(recurrent.reach(made, params), np.sqrt(norms / norms.max()), rtol=0.02)


def test_text(recurrent):
    made = recurrent.experiment(dataclasses.replace(recurrent.Config(), task="text", model="gru", length=4, hidden=4))
    params, batch, key = made.arguments()
    assert abs(float(made.loss(params, batch, key)) - np.log(256)) < 0.5
