"""When a checkpoint is written, and that a run which is stopped or fails keeps its last whole state."""

import contextlib
import dataclasses

import jax.numpy as jnp
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.checkpoints import schedule
from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.manifest import write_manifest
from fnbackprop.training.checkpoints.resuming import load_checkpoint
from fnbackprop.training.checkpoints.schedule import CheckpointSchedule
from fnbackprop.training.checkpoints.writer import CheckpointWriter
from fnbackprop.training.errors import CheckpointError, RunError
from fnbackprop.training.loop import train
from fnbackprop.training.record.run_log import RunLog
from fnbackprop.training.run import Run
from fnbackprop.training.run_folder import RunFolder, read_metrics
from fnbackprop.training.step.state import initial_state
from tests.training.survivor import Config, experiment

MADE = experiment(Config())
STATE = initial_state(MADE)


def steps_saved(directory, *, evaluations=None, clock=None, state=STATE, stop=6, **options):
    """The steps at which a run of six steps writes a checkpoint; `evaluations` gives a score after some of them."""
    run, folder = Run(MADE, directory=directory, steps=stop, **options), RunFolder(directory / "survivor")
    written = []
    log = RunLog("run", folder, start=0, stop=stop, progress=False)
    with log, pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointWriter, "write", lambda self, state, info: written.append(info["step"]))
        own = CheckpointSchedule(run, folder, log, 0, clock=clock or (lambda: 0.0))
        try:
            for updates in range(1, stop + 1):
                if updates in (evaluations or {}):
                    log.add_evaluation(updates, {"score": evaluations[updates]})
                own.save_if_due(updates, state)
        finally:
            own.close(None)
    return written


def test_every_so_many_steps_and_at_the_end(tmp_path):
    assert steps_saved(tmp_path, checkpoint_every=4) == [4, 6]
    assert steps_saved(tmp_path, checkpoint_every=3) == [3, 6]


def test_none_is_asked_for(tmp_path):
    assert steps_saved(tmp_path, checkpoint_every=0) == []
    made = experiment(Config(steps=3))
    batch = failing_at(made, 2)
    with pytest.raises(ConnectionError):
        train(dataclasses.replace(made, batch=batch), directory=tmp_path / "there", checkpoint_every=0, progress=False)
    assert list_checkpoints(RunFolder(tmp_path / "there" / "survivor")) == []


def test_by_default_every_ten_minutes_and_at_the_end(tmp_path):
    assert steps_saved(tmp_path) == [6]
    minutes = iter([0, 3, 9, 11, 11, 14, 18, 18, 18]).__next__
    assert steps_saved(tmp_path, clock=lambda: 60.0 * minutes()) == [3, 6]


@pytest.mark.parametrize("mode, steps", [("max", [1, 4]), ("min", [1, 2, 5])])
def test_when_an_evaluation_is_the_best_so_far(tmp_path, mode, steps):
    scores = {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.6, 5: 0.2}
    options = {"checkpoint_every": 100, "best": "score", "best_mode": mode}
    assert steps_saved(tmp_path, **options, evaluations=scores) == [*steps, 6]
    with pytest.raises(ExperimentError, match="evaluate returns no 'accuracy' .* but: score"):
        steps_saved(tmp_path, best="accuracy", evaluations=scores)


@pytest.mark.parametrize("few", [0, 1 << 20])
def test_a_state_with_nan_is_not_kept(tmp_path, monkeypatch, few):
    monkeypatch.setattr(schedule, "LOOKED_AT_HERE", few)
    broken = dataclasses.replace(STATE, params=STATE.params | {"v": jnp.array([1.0, jnp.nan])})
    assert steps_saved(tmp_path, checkpoint_every=2, state=broken) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"checkpoint_every": -1}, "checkpoint_every must be an integer of at least 0, or None, not -1"),
        ({"keep": 0}, "keep must be"),
        ({"best": "score", "best_mode": "highest"}, 'best_mode must be "max" or "min"'),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(ExperimentError, match=message):
        train(experiment(Config()), directory=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_best_of_what_is_never_measured():
    made = dataclasses.replace(experiment(Config()), evaluate=None)
    with pytest.raises(ExperimentError, match="best='size' is to be a metric of evaluate, but the experiment has no"):
        train(made, directory=None, best="size", best_mode="max")


@pytest.mark.parametrize("failing, kept", [({2, 4}, [6]), ({4, 6}, [2])])
def test_the_run_goes_on_when_a_checkpoint_fails_but_not_without_the_last(tmp_path, monkeypatch, capsys, failing, kept):
    def fail(folder):
        if int(folder.name[-1]) in failing:
            raise OSError(28, "No space left on device")
        write_manifest(folder)

    monkeypatch.setattr("fnbackprop.training.checkpoints.writer.write_manifest", fail)
    made = experiment(Config(steps=6))
    last_fails = 6 in failing
    message = "step_00000006 could not be written: No space left on device. The last one written is .*step_00000002"
    with pytest.raises(CheckpointError, match=message) if last_fails else contextlib.nullcontext():
        train(made, directory=tmp_path, checkpoint_every=2)
    assert "step_00000004 could not be written: No space left on device" in capsys.readouterr().out
    assert len([record for record in read_metrics(tmp_path / "survivor") if "loss" in record]) == 6
    found = list_checkpoints(RunFolder(tmp_path / "survivor"))
    assert [checkpoint.step for checkpoint in found] == kept, "what is half written is removed"


def failing_at(made, wrong):
    def batch(step):
        if step == wrong:
            raise ConnectionError("the data are gone")
        return made.batch(step)

    return batch


@pytest.mark.parametrize("where", ["batch", "evaluate"])
def test_an_error_between_two_steps_saves_too(tmp_path, where):
    made = experiment(Config(steps=9))

    def evaluate(params):
        raise ConnectionError("the data are gone")

    changes = {"batch": failing_at(made, 7)} if where == "batch" else {"evaluate": evaluate, "evaluate_every": 7}
    with pytest.raises(ConnectionError):
        train(dataclasses.replace(made, **changes), directory=tmp_path, progress=False, trial=False)
    assert load_checkpoint(made, directory=tmp_path).step == 7


def test_an_error_is_not_hidden_by_a_disk_that_is_full(tmp_path, monkeypatch, capsys):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fnbackprop.training.checkpoints.writer.write_manifest", full)
    made = experiment(Config(steps=9))
    with pytest.raises(ConnectionError):
        train(dataclasses.replace(made, batch=failing_at(made, 2)), directory=tmp_path, trial=False)
    told = capsys.readouterr().out
    assert "the last state is not saved: the checkpoint " in told and "steps are saved" not in told


def test_metrics_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/run/metrics.jsonl cannot be written: Not a directory\."):
        RunLog("run", RunFolder(tmp_path / "file" / "run"), start=0, stop=9, progress=False)
    with RunLog("run", RunFolder(tmp_path), start=0, stop=9, progress=False) as log:
        log._file._file.close()
        log._file._file = open("/dev/full", "w")
        with pytest.raises(RunError, match=r"metrics.jsonl cannot be written: No space left on device\."):
            log.add_rows([{"step": 0, "loss": 1.0, "gradient_norm": 1.0}])
        with pytest.raises(RunError, match=r"metrics.jsonl cannot be written: No space left on device\."):
            log.sync()
