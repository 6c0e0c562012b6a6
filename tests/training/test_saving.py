"""When a checkpoint is written, and that a run which is stopped or fails keeps its last whole state."""

import dataclasses
import signal

import jax.numpy as jnp
import pytest

from fnbackprop.cli import main
from fnbackprop.experiment import ExperimentError
from fnbackprop.training.checkpoint import CheckpointError, CheckpointWriter, list_checkpoints
from fnbackprop.training.loop import train
from fnbackprop.training.metrics import read_metrics
from fnbackprop.training.recorder import Recorder, RunError
from fnbackprop.training.resuming import load_checkpoint
from fnbackprop.training.saving import Policy, Saving
from fnbackprop.training.state import initial_state
from fnbackprop.training.stopping import Interrupted
from tests.training.survivor import Config, experiment
from tests.training.test_resuming import ROOT, survivor

STATE = initial_state(experiment(Config()))


def steps_saved(run, policy, *, evaluations=None, clock=None, state=STATE, stop=6):
    """The steps at which a run of six steps writes a checkpoint; `evaluations` gives a score after some of them."""
    written = []
    with Recorder("run", run, start=0, stop=stop, progress=False) as recorder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointWriter, "write", lambda self, state, info: written.append(info["step"]))
        hook = Saving(run, {}, recorder, policy, 0, stop, clock=clock or (lambda: 0.0))
        try:
            for updates in range(1, stop + 1):
                if updates in (evaluations or {}):
                    recorder.evaluated(updates, {"score": evaluations[updates]})
                hook.after_step(updates, state)
        finally:
            hook.close(None)
    return written


def test_every_so_many_steps_and_at_the_end(tmp_path):
    assert steps_saved(tmp_path, Policy(checkpoint_every=4)) == [4, 6]
    assert steps_saved(tmp_path, Policy(checkpoint_every=3)) == [3, 6]


def test_by_default_every_ten_minutes_so_that_a_short_run_has_none(tmp_path):
    assert steps_saved(tmp_path, Policy()) == []
    minutes = iter([0, 3, 9, 11, 11, 14, 18, 18, 18]).__next__
    assert steps_saved(tmp_path, Policy(), clock=lambda: 60.0 * minutes()) == [3, 6]


@pytest.mark.parametrize("mode, steps", [("max", [1, 4]), ("min", [1, 2, 5])])
def test_when_an_evaluation_is_the_best_so_far(tmp_path, mode, steps):
    scores = {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.6, 5: 0.2}
    policy = Policy(checkpoint_every=100, best="score", best_mode=mode)
    assert steps_saved(tmp_path, policy, evaluations=scores) == [*steps, 6]
    with pytest.raises(ExperimentError, match="evaluate returns no 'accuracy' .* but: score"):
        steps_saved(tmp_path, Policy(best="accuracy"), evaluations=scores)


def test_a_state_with_nan_is_not_kept(tmp_path):
    broken = dataclasses.replace(STATE, params=STATE.params | {"v": jnp.array([1.0, jnp.nan])})
    assert steps_saved(tmp_path, Policy(checkpoint_every=2), state=broken) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"checkpoint_every": 0}, "checkpoint_every must be an integer of at least 1, or None, not 0"),
        ({"keep": 0}, "keep must be"),
        ({"best": "score", "best_mode": "highest"}, 'best_mode must be "max" or "min"'),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(ExperimentError, match=message):
        train(experiment(Config()), directory=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_run_goes_on_when_a_checkpoint_fails_and_ends_with_the_error(tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fnbackprop.training.checkpoint.write_manifest", fail)
    made = experiment(Config(steps=6))
    with pytest.raises(CheckpointError, match="step_00000006 could not be written: .*No space left.*There is none"):
        train(made, directory=tmp_path, checkpoint_every=2)
    assert "step_00000002 could not be written" in capsys.readouterr().out
    assert len([record for record in read_metrics(tmp_path / "survivor") if "loss" in record]) == 6
    assert list_checkpoints(tmp_path / "survivor") == [], "what was half written is removed"


@pytest.mark.parametrize("name, raised", [("SIGINT", Interrupted), ("SIGTERM", SystemExit)])
def test_a_signal_ends_the_run_between_two_steps_and_saves(tmp_path, monkeypatch, capfd, name, raised):
    monkeypatch.setenv("SEND", f"5 {name}")
    made = experiment(Config(steps=9))
    with pytest.raises(raised) as ended:
        train(made, directory=tmp_path)
    assert raised is Interrupted or ended.value.code == 143
    printed = capfd.readouterr()
    assert f"{name}: stopping after this step" in printed.err
    assert "6 steps are saved. To go on from there: resume=True, or --resume" in printed.out
    assert load_checkpoint(made, directory=tmp_path).step == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handlers are put back"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_interrupt_ends_at_once(tmp_path):
    done = survivor(tmp_path, send="3 SIGINT SIGINT")
    assert done.returncode == -signal.SIGINT and "Traceback" not in done.stderr
    assert list_checkpoints(tmp_path / "survivor") == []


def test_an_error_between_two_steps_saves_too(tmp_path):
    made = experiment(Config(steps=9))

    def batch(step):
        if step == 7:
            raise ConnectionError("the data are gone")
        return made.batch(step)

    with pytest.raises(ConnectionError):
        train(dataclasses.replace(made, batch=batch), directory=tmp_path, progress=False)
    assert load_checkpoint(made, directory=tmp_path).step == 7


def test_metrics_that_cannot_be_written_are_named(tmp_path):
    with Recorder("run", tmp_path, start=0, stop=9, progress=False) as recorder:
        recorder._file._file.close()
        recorder._file._file = open("/dev/full", "w")
        with pytest.raises(RunError, match=r"metrics.jsonl cannot be written: No space left on device\."):
            recorder.record([{"step": 0, "loss": 1.0, "gradient_norm": 1.0}])


def test_exit_statuses(tmp_path, monkeypatch, capsys):
    file = str(ROOT / "tests" / "training" / "survivor.py")
    monkeypatch.setenv("SEND", "2 SIGINT")
    assert main(["train", file, "--steps", "4", "--directory", str(tmp_path)]) == 130
    monkeypatch.setenv("SEND", "-1")
    assert main(["train", file, "--steps", "4", "--directory", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "CheckpointError: " in printed and "--resume" in printed
    assert main(["train", file, "--steps", "4", "--directory", str(tmp_path), "--resume"]) == 0
