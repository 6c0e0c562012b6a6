"""Callbacks and patience end a run, save it and evaluate it; a run that is resumed ends where it would have."""

import jax.numpy as jnp
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.callbacks import Patience, ask
from fnbackprop.training.loop import train
from fnbackprop.training.run_folder import RunFolder, read_metrics
from tests.training.test_loop import regression

ERRORS = [5.0, 3.0, 4.0, 2.9, 2.0, 2.5, 2.5, 9.0]


def measured(**changes):
    """Its evaluations are `ERRORS`, one each step, from the number of steps made."""

    def init(key):
        return {**regression().init(key), "steps": jnp.zeros(())}

    def loss(params, batch, key):
        return regression().loss(params, batch, key) + 0 * params["steps"]

    def evaluate(params):
        return {"error": next(errors)}

    errors = iter(ERRORS[changes.pop("after", 0) :])
    return regression(init=init, loss=loss, evaluate=evaluate, evaluate_every=1, steps=8, **changes)


def test_callbacks_are_asked_after_each_step(tmp_path, capsys):
    seen = []

    def callback(step, state, values):
        seen.append((step, int(state.step), float(values["loss"]), values.get("evaluate/zero")))
        return {2: "checkpoint", 3: ["evaluate"], 4: ("evaluate", "stop")}.get(step)

    made = regression(evaluate=lambda params: {"zero": 0.0}, evaluate_every=2)
    state = train(made, directory=tmp_path, callbacks=[callback, lambda *_: None], checkpoint_every=100)
    rows = read_metrics(tmp_path / "regression")
    assert state.step == 4 and [one[:2] for one in seen] == [(n, n) for n in (1, 2, 3, 4)]
    assert [one[2] for one in seen] == [row["loss"] for row in rows if "loss" in row]
    assert [one[3] for one in seen] == [None, 0.0, None, 0.0]
    assert [row["step"] for row in rows if "evaluate/zero" in row] == [2, 3, 4]
    folder = RunFolder(tmp_path / "regression")
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step_00000002", "step_00000004"]
    assert folder.read_description()["status"] == "finished"
    assert folder.read_description()["stopped_by"] == "as a callback asked"
    assert "regression: ends after step 4 of 30, as a callback asked" in capsys.readouterr().out


def test_another_answer_is_named():
    def halt(step, state, values):
        return "halt"

    with pytest.raises(ExperimentError, match="the callback halt may return stop, checkpoint, evaluate or None, not"):
        ask([halt], 1, None, {}, {})


def test_patience_ends_a_run_and_the_same_when_resumed(tmp_path, capsys):
    options = {"best": "error", "best_mode": "min", "patience": 2, "trial": False}
    assert train(measured(), directory=tmp_path / "whole", progress=False, **options).step == 7
    train(measured(), steps=6, directory=tmp_path / "parts", progress=False, **options)
    state = train(measured(after=6), directory=tmp_path / "parts", resume=True, **options)
    assert state.step == 7
    assert "for 2 evaluations without a better error than 2 at step 5" in capsys.readouterr().out
    state = train(measured(after=7), directory=tmp_path / "parts", resume=True, **options)
    assert state.step == 7 and "has made its 7 steps already, for 2 evaluations" in capsys.readouterr().out


def test_patience_counts_evaluations_and_not_looks():
    patience = Patience("accuracy", "max", 2)
    found = [patience.look(step, {"accuracy": x}) for step, x in [(1, 0.5), (1, 0.5), (1, 0.5), (2, float("nan"))]]
    assert found == [""] * 4
    assert patience.look(3, {"accuracy": 0.5}) == "for 2 evaluations without a better accuracy than 0.5 at step 1"
