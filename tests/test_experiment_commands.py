"""The commands on an experiment: their options are the keywords of what they run, and reach it."""

import dataclasses
from types import SimpleNamespace

import pytest

from fnbackprop.experiment_commands import COMMANDS, CompareOptions, ReplayOptions, TrainOptions
from fnbackprop.training import loop, replaying
from fnbackprop.training.run import Run

NOT_OF_THE_COMMAND_LINE = {
    "experiment",
    "steps",
    "state",
    "progress",
    "callbacks",
}  # steps: the experiment has its own option
OF_THE_COMMAND_LINE_ALONE = {"distributed", "name"}  # name: the experiment has its own


def defaults(cls):
    return {field.name: field.default for field in dataclasses.fields(cls)}


def test_train_has_every_option_of_a_run_with_the_same_default():
    options, run = defaults(TrainOptions), defaults(Run)
    assert set(options) - OF_THE_COMMAND_LINE_ALONE == set(run) - NOT_OF_THE_COMMAND_LINE
    for name in set(options) - OF_THE_COMMAND_LINE_ALONE:
        assert str(options[name]) == str(run[name]), name


@pytest.fixture
def calls(monkeypatch):
    """What train and replay are called with, instead of what they do."""
    found = []

    def record(experiment, **keywords):
        found.append((experiment, keywords))
        return SimpleNamespace(params="trained", model_state=None)

    monkeypatch.setattr(loop, "train", record)
    monkeypatch.setattr(replaying, "replay", record)
    return found


def test_train_passes_its_options_on(calls):
    assert COMMANDS["train"].run("an experiment", TrainOptions(mesh="data=2", distributed=True)) == 0
    ((experiment, keywords),) = calls
    assert experiment == "an experiment" and keywords["mesh"] == "data=2"
    assert set(keywords) == set(defaults(Run)) - NOT_OF_THE_COMMAND_LINE


def test_replay_passes_its_options_on(calls, capsys):
    assert COMMANDS["replay"].run("an experiment", ReplayOptions(step=7)) == 0
    ((_, keywords),) = calls
    assert keywords["step"] == 7
    assert "trained" in capsys.readouterr().out


@pytest.mark.parametrize("after, params, trained", [(0, "initial", []), (3, "trained", [3])])
def test_compare_takes_the_parameters_after_some_steps(monkeypatch, calls, after, params, trained):
    from fnbackprop.comparing import command, pipeline

    compared = []

    def compare(loss, *arguments, **settings):
        compared.append((loss, arguments))
        return SimpleNamespace(value=SimpleNamespace(verdict=None), leaves=())

    monkeypatch.setattr(pipeline, "compare", compare)
    monkeypatch.setattr(command, "report", lambda result, options: 5)
    parts = {"": SimpleNamespace(loss="loss")}
    experiment = SimpleNamespace(parts=parts, arguments=lambda steps: ("initial", f"batch {steps}", "key"))
    experiment.loss_arguments = lambda params, batch, key, model_state: (params, batch, key)
    assert COMMANDS["compare"].run(experiment, CompareOptions(after=after)) == 5
    assert compared == [("loss", (params, f"batch {after}", "key"))]
    assert [keywords["steps"] for _, keywords in calls] == trained


def test_balance_judges_each_checkpoint_that_is_asked_for(monkeypatch):
    from fnbackprop.balancing import command
    from fnbackprop.balancing.command import BalanceOptions
    from fnbackprop.training import balancing
    from fnbackprop.training.checkpoints import resuming

    judged = []

    def balance(experiment, *, state, **settings):
        judged.append((state, settings))
        return SimpleNamespace(ok=state != 20)

    monkeypatch.setattr(balancing, "balance", balance)
    monkeypatch.setattr(resuming, "load_checkpoint", lambda experiment, *, directory, step: step)
    monkeypatch.setattr(command, "show", lambda *arguments: None)
    experiment = SimpleNamespace(config=None, parts={"": None})
    settings = {"check": False, "range_test": True, "mesh": None, "update": None}
    assert COMMANDS["balance"].run(experiment, BalanceOptions(check=False)) == 0
    assert COMMANDS["balance"].run(experiment, BalanceOptions(at=(10, 20), check=False)) == 1
    assert judged == [(None, settings), (10, settings), (20, settings)]
