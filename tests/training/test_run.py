"""The keywords of `train` as one value."""

import inspect
import pathlib

import pytest

import fnbackprop as fb
from fnbackprop.experiment import ExperimentError
from fnbackprop.experiment_commands import COMMANDS
from fnbackprop.training.loop import train
from fnbackprop.training.run import Run
from tests.training.survivor import Config, experiment

MADE = experiment(Config(steps=9))


def defaults(function):
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def test_its_fields_are_the_keywords_of_train():
    assert defaults(Run) == defaults(train)
    of_command_alone = ("distributed", "name")  # an experiment has its own name
    options = {k: value for k, value in defaults(COMMANDS["train"].options).items() if k not in of_command_alone}
    assert options | {"directory": "runs"} == {name: value for name, value in defaults(Run).items() if name in options}


def test_what_follows_from_them():
    run = Run(MADE, backward="both", directory="there")
    assert (run.stop, run.differentiator) == (9, "manual") and Run(MADE, steps=4, directory=None).stop == 4
    assert Run(MADE, backward="automatic").settings["backward"] == "automatic"
    assert Run(MADE, backward="both", fuse=True).settings["backward"] == "fused"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"checkpoint_every": True}, "checkpoint_every must be an integer of at least 0, or None, not True"),
        ({"batch_timeout": 0}, "batch_timeout must be a number of seconds above 0, not 0"),
        ({"patience": 3}, "name it, best="),
        ({"loggers": ["comet"]}, "there is no logger 'comet'; they are tensorboard, wandb, mlflow, aim, csv"),
        ({"loggers": [str]}, "a logger has the methods start, log, artifact, finish"),
        ({"directory": "gs://bucket/runs"}, "gs://bucket/runs is the address of a bucket"),
        ({"directory": pathlib.Path("s3://bucket")}, "s3:/bucket is the address of a bucket"),
        ({"keep": 0}, "keep must be an integer of at least 1"),
        ({"compare_every": 0}, "compare_every must be an integer of at least 1, not 0"),
        ({"backward": "manul"}, "backward must be one of manual, automatic, both, not 'manul'"),
        ({"backward": "fused"}, "not 'fused'; blocks are put in by fuse=True"),
        ({"profile": "yes"}, "profile must be True or False, not 'yes'"),
        ({"resume": 1}, "resume must be True or False, not 1"),
        ({"prefetch": -1}, "prefetch must be an integer of at least 0, not -1"),
        ({"steps": 2.5}, "steps must be an integer of at least 0, or None, not 2.5"),
        ({"state": 3}, "state must be a TrainState, as train and load_checkpoint return it, not 3"),
        ({"callbacks": [3]}, r"a callback must be a function a callback\(step, state, values\), not 3"),
        ({"callbacks": [lambda step: None]}, r"called as a callback\(step, state, values\), but"),
        ({"callbacks": print}, r"callbacks must be a list, callbacks=\[...\], not"),
        ({"loggers": "csv"}, r"loggers must be a list, loggers=\[...\], not 'csv'"),
        ({"backward": "automatic", "fuse": True}, "not backward=.automatic"),
        ({"best_mode": "highest"}, 'best_mode must be "max" or "min"'),
        ({"resume": True, "overwrite": True}, "give one of them"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ExperimentError, match=message):
        Run(MADE, **options)


@pytest.mark.parametrize("function", [fb.train, fb.load_checkpoint, fb.replay, fb.balance, fb.export_model])
def test_what_is_no_experiment(function, tmp_path):
    rest = (None, tmp_path) if function is fb.export_model else ()
    with pytest.raises(ExperimentError, match=f"{function.__name__} takes an Experiment, not 'nothere'; for a file"):
        function("nothere", *rest)


def test_a_logger_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr("fnbackprop.extras._is_installed", lambda module: False)
    with pytest.raises(fb.MissingExtra, match="the logger tensorboard needs tensorboardX"):
        Run(MADE, loggers=["tensorboard"])
