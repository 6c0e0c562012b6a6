"""What surrounds the steps is opened in order, closed in the reverse order, and told what ended the run."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training import session
from fnbackprop.training.errors import CheckpointError
from fnbackprop.training.loop import make_step, train
from fnbackprop.training.run import Run
from fnbackprop.training.run_folder import RunFolder, read_metrics
from fnbackprop.training.session import Session, layout_of
from tests.training.step.test_several_updates import gan
from tests.training.survivor import Config, experiment
from tests.training.test_loop import regression

MADE = experiment(Config(steps=4))


def test_what_was_opened_is_closed_if_opening_fails(tmp_path, monkeypatch):
    def missing(loggers, run):
        raise ExperimentError("tensorboard needs tensorboardX")

    monkeypatch.setattr(session.Loggers, "start", missing)
    monkeypatch.setattr("fnbackprop.training.loggers.group.require", lambda *_: None)
    before = signal.getsignal(signal.SIGINT)
    with (
        pytest.raises(ExperimentError, match="tensorboardX"),
        Session(Run(MADE, directory=tmp_path, loggers=["tensorboard"]), make_step(MADE)),
    ):
        pytest.fail("it was opened")
    assert list(tmp_path.iterdir()) == [], "there was no step"
    assert signal.getsignal(signal.SIGINT) is before


def test_the_description_is_closed_after_the_checkpoints_and_names_their_error(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fnbackprop.training.checkpoints.writer.write_manifest", full)
    with pytest.raises(CheckpointError):
        train(MADE, directory=tmp_path, checkpoint_every=4, progress=False, trial=False)
    found = RunFolder(tmp_path / "survivor").read_description()
    assert found["status"] == "stopped" and found["error"].startswith("CheckpointError: ") and found["step"] == 4


def test_evaluations_are_due_now_and_then_and_at_the_end(tmp_path):
    calls = []

    def evaluate(params):
        calls.append(float(jnp.sum(params["w"])))
        return {}

    made = regression(evaluate=evaluate, evaluate_every=3)
    with Session(Run(made, steps=7, directory=None, progress=False, trial=False), make_step(made)) as found:
        for updates in range(1, 8):
            found.evaluate(updates, found.state)
    assert len(calls) == 3  # after 3, 6 and 7 updates


def test_an_evaluation_that_failed_is_made_when_the_run_is_resumed(tmp_path):
    failures = [OSError("no labels of step 2"), None, OSError("none of step 4"), None]

    def evaluate(params):
        if (failure := failures.pop(0)) is not None:
            raise failure
        return {"size": float(jnp.sum(params["w"] ** 2))}

    made = dataclasses.replace(MADE, evaluate=evaluate, evaluate_every=2)
    for message in ("step 2", "step 4"):
        with pytest.raises(OSError, match=message):
            train(made, directory=tmp_path, resume=True, progress=False, trial=False)
    state = train(made, directory=tmp_path, resume=True, progress=False, trial=False)
    found = {row["step"]: row["evaluate/size"] for row in read_metrics(tmp_path / "survivor") if "evaluate/size" in row}
    assert list(found) == [2, 4] and found[4] == float(jnp.sum(state.params["w"] ** 2)) and not failures


def test_a_layout_only_on_a_mesh():
    assert layout_of(Run(regression())) is None
    layout = layout_of(Run(regression(), mesh="data=4"))
    assert layout.mesh.shape == {"data": 4} and layout.batch_axis == "data"


def test_a_batch_of_another_shape_is_named():
    def batch(step):
        return jax.tree.map(lambda leaf: leaf[: 8 if step < 3 else 5], regression().batch(step))

    with pytest.raises(ExperimentError, match=r"batch\(3\) has the shapes .*\(5, 3\).*first batch had .*\(8, 3\)"):
        train(regression(batch=batch), directory=None, progress=False)


def test_each_of_several_updates_is_looked_at(tmp_path):
    """Checked, balanced, watched and profiled with its own state, under its own name; the numbers stay the same."""
    plain = train(gan(), directory=None, progress=False)
    options = {"backward": "both", "compare_every": 3, "balance_every": 3, "watch": 3}
    state = train(gan(), directory=tmp_path, progress=False, **options)
    assert all((x == y).all() for x, y in zip(*(jax.tree.leaves(s.params) for s in (plain, state)), strict=True))
    folder = RunFolder(tmp_path / "gan")
    assert list(folder.comparisons()) == ["critic", "generator"]
    rows = [row for row in folder.read_metrics() if "critic/overshoot" in row]
    assert [row["step"] for row in rows] == [0, 3] and all("generator/batch_sharpness" in row for row in rows)
    page = folder.report.read_text()
    assert "<h3>critic</h3>" in page and "and held to that at 1 later step" in page


def fails_at(step):
    def batch(number):
        if number >= step:
            raise ConnectionError("no data")
        return MADE.batch(number)

    return batch


@pytest.mark.parametrize("options, changes", [
    ({"mesh": "data=3"}, {}),
    ({"loggers": ["csv"]}, {"batch": fails_at(0)}),
    ({}, {"loss": lambda params, batch, key: params["nothing"]}),
    ({"trial": True}, {"evaluate": lambda params: {"a": params["nothing"]}}),
])  # fmt: skip
def test_a_run_that_fails_before_its_first_step_leaves_no_folder(tmp_path, options, changes):
    with pytest.raises((ExperimentError, ConnectionError, KeyError)):
        train(dataclasses.replace(MADE, **changes), directory=tmp_path, progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_what_was_saved_stays(tmp_path):
    with pytest.raises(ConnectionError):
        train(dataclasses.replace(MADE, batch=fails_at(2)), directory=tmp_path, progress=False, prefetch=0)
    assert RunFolder(tmp_path / "survivor").read_description()["step"] == 2
    with pytest.raises(ConnectionError):  # in the folder that is there already
        made = dataclasses.replace(MADE, batch=fails_at(0))
        train(made, directory=tmp_path, progress=False, overwrite=True)
    assert (tmp_path / "survivor").is_dir()

    def evaluate(params, context):
        (context.folder / "mine.txt").write_text("kept")
        raise ValueError("broken")

    made = dataclasses.replace(MADE, name="mine", evaluate=evaluate)
    with pytest.raises(ValueError, match="broken"):
        train(made, directory=tmp_path, progress=False)
    assert (tmp_path / "mine/mine.txt").read_text() == "kept"
