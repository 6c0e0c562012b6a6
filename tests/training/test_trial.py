"""What would end a run at its first evaluation or checkpoint ends it before the first step."""

import dataclasses
import shutil
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training import trial
from fnbackprop.training.errors import CheckpointError
from fnbackprop.training.loop import train
from fnbackprop.training.run import Run
from fnbackprop.training.run_folder import RunFolder
from fnbackprop.training.step.state import initial_state
from fnbackprop.training.trial import try_checkpoint, try_evaluation
from tests.training.step.test_model_state import normalised
from tests.training.test_loop import regression


def never(step):
    """A batch that no step may ask for, but for the two of the fingerprint."""
    assert step == 0
    return regression().batch(0)


@pytest.mark.parametrize(
    "evaluate, best, error, said",
    [
        (lambda params: {"size": params["x"]}, None, KeyError, "x"),
        (lambda params: {"size": float(np.sum(params["w"])) / 0}, None, ZeroDivisionError, "zero"),
        (lambda params: {"size": params["w"]}, None, ExperimentError, "'size' of evaluate must be a real scalar"),
        (lambda params: {"size": jnp.sum(params["w"])}, "accuracy", ExperimentError, "no 'accuracy' .* but: size"),
    ],
)
def test_an_evaluation_that_fails_costs_no_step(tmp_path, evaluate, best, error, said):
    made = regression(evaluate=evaluate, batch=never)
    with pytest.raises(error, match=said):
        train(made, directory=tmp_path, progress=False, prefetch=0, best=best)
    assert list(tmp_path.iterdir()) == []  # not even the run's folder


def test_one_that_can_be_traced_computes_nothing_and_one_that_cannot_runs_once():
    state, seen = initial_state(regression()), []

    def evaluate(params):
        seen.append(params["w"])
        return {"size": jnp.sum(params["w"])}

    try_evaluation(regression(evaluate=evaluate), state)
    assert len(seen) == 1 and not isinstance(seen[0], np.ndarray) and seen[0] is not state.params["w"]
    try_evaluation(regression(evaluate=lambda params: {"size": float(evaluate(params)["size"])}), state)
    assert len(seen) == 3 and seen[2] is state.params["w"]


def test_a_checkpoint_of_every_kind_of_leaf_is_tried_and_removed(tmp_path, monkeypatch):
    experiment, folder = normalised(ema=0.5), RunFolder(tmp_path)
    state = initial_state(experiment)
    assert try_checkpoint(Run(experiment, directory=tmp_path), folder, state, {"place": 3}) == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="could not be written"):
        try_checkpoint(Run(experiment, directory=tmp_path), folder, state, object())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    [line] = try_checkpoint(Run(experiment, directory=tmp_path), folder, state, None)
    assert "0.0 GB are free" in line
    monkeypatch.setattr(trial, "CheckpointWriter", None)
    assert try_checkpoint(Run(experiment, directory=tmp_path, checkpoint_every=0), folder, state, None) == []


def test_a_checkpoint_is_tried_while_init_computes_and_its_error_ends_the_run_before_the_first_step(
    tmp_path, monkeypatch
):
    made, tried = regression(batch=never), threading.Event()

    def init(key):
        if not isinstance(key, jax.core.Tracer):
            assert tried.wait(60.0)
        return made.init(key)

    def fails(run, folder, state, data_state):
        assert isinstance(state.params["w"], jax.ShapeDtypeStruct)
        tried.set()
        raise CheckpointError("no room")

    monkeypatch.setattr(trial, "try_checkpoint", fails)
    with pytest.raises(CheckpointError, match="no room"):
        train(dataclasses.replace(made, init=init), directory=tmp_path, progress=False, prefetch=0)
    assert list(tmp_path.iterdir()) == []


def test_the_trial_of_a_run_whose_init_fails_leaves_nothing(tmp_path):
    def init(key):
        if not isinstance(key, jax.core.Tracer):
            raise KeyError("weights")
        return regression().init(key)

    with pytest.raises(KeyError):
        train(dataclasses.replace(regression(), init=init), directory=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
