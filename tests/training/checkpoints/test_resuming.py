"""A run that was killed goes on to the same bits; what does not fit or is damaged is named, and nothing is lost."""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import optax
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.resuming import begin, load_checkpoint
from fnbackprop.training.errors import CheckpointError
from fnbackprop.training.loop import train
from fnbackprop.training.run import Run
from fnbackprop.training.run_folder import RunFolder, read_metrics
from fnbackprop.training.step.state import initial_state
from tests.training.checkpoints.test_checkpoint import assert_same_bits
from tests.training.survivor import Config, experiment

ROOT = pathlib.Path(__file__).parents[3]
MADE = experiment(Config())


def survivor(directory, *options, send="-1"):
    """Run the experiment in a process of its own."""
    command = [sys.executable, "-m", "tests.training.survivor", "train", "--directory", str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEND": send}
    return subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of 40 steps, with checkpoints after 20, 30 and 40: the state, and the run's folder."""
    directory = tmp_path_factory.mktemp("whole")
    return train(MADE, directory=directory, checkpoint_every=10, progress=False), directory / "survivor"


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the run's folder."""
    return pathlib.Path(shutil.copytree(whole[1], tmp_path / "survivor"))


def start(run, made=MADE, **options):
    asked = Run(made, directory=run.parent, **options)
    return begin(asked, RunFolder(run), initial_state(made))[:2]


def tree(folder):
    """Every file's content, to see that nothing was changed."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_killed_and_resumed_is_the_same_run_to_the_bit(whole, tmp_path):
    killed = survivor(tmp_path, "--checkpoint-every", "10", send="27 SIGKILL")
    assert killed.returncode == -9
    with open(tmp_path / "survivor" / "metrics.jsonl", "a") as metrics:
        metrics.write('{"step": 99, "lo')  # as a kill in the midst of a line leaves it
    state = train(MADE, directory=tmp_path, checkpoint_every=10, resume=True, progress=False)
    assert_same_bits(state, whole[0])
    assert_same_bits(load_checkpoint(MADE, directory=tmp_path), whole[0])
    assert (tmp_path / "survivor" / "metrics.jsonl").read_bytes() == (whole[1] / "metrics.jsonl").read_bytes()
    steps = [record["step"] for record in read_metrics(tmp_path / "survivor") if "loss" in record]
    assert steps == list(range(40))


def test_a_run_is_overwritten_if_that_is_asked_for(run):
    state, notes = start(run, overwrite=True)
    assert state.step == 0 and "overwritten, with its checkpoints of step 20, 30, 40" in notes[0]
    assert list_checkpoints(RunFolder(run)) == []


def test_resuming_where_there_is_nothing_begins_anew(run, tmp_path):
    assert start(tmp_path / "nothing" / "survivor", resume=True)[0].step == 0
    for found in list_checkpoints(RunFolder(run)):
        (found.folder / "manifest.json").unlink()
    (run / "checkpoints" / "step_00000020" / "info.json").unlink()
    state, notes = start(run, resume=True)
    assert state.step == 0 and list_checkpoints(RunFolder(run)) == []
    assert "step_00000020 was not finished: removed" in notes[0]
    assert "step_00000030 has no manifest: set aside as damaged_step_00000030" in notes[1] and len(notes) == 5
    assert "metrics.jsonl is of steps that no checkpoint has: it is kept as metrics.before.jsonl" in notes[3]
    assert notes[4] == "survivor: no checkpoint to resume from: it begins anew, at step 0"
    assert (run / "metrics.before.jsonl").stat().st_size and not (run / "metrics.jsonl").exists()
    (run / "metrics.jsonl").write_text("{}\n")
    assert "it is kept as metrics.before2.jsonl" in start(run, resume=True)[1][0]


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(run):
    flip(next((run / "checkpoints" / "step_00000040" / "state").rglob("d/*")))
    os.truncate(run / "checkpoints" / "step_00000030" / "info.json", 50)
    state, notes = start(run, resume=True)
    assert state.step == 20
    assert "step_00000040 is damaged: state/" in notes[0] and "step_00000030 is damaged: info.json has 50" in notes[1]
    assert "going on from step 20" in notes[2]
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["damaged_step_00000030", "damaged_step_00000040", "step_00000020"]
    steps = [record["step"] for record in read_metrics(run) if "loss" in record]
    assert steps == list(range(20))


def test_when_all_are_damaged_nothing_is_changed(run):
    for found in list_checkpoints(RunFolder(run)):
        flip(found.folder / "info.json")
    before = tree(run)
    with pytest.raises(CheckpointError, match="(?s)no checkpoint in .* is whole:.*step_00000040.*step_00000020.*anew"):
        start(run, resume=True)
    with pytest.raises(CheckpointError, match="step_00000030 is damaged: info.json"):
        load_checkpoint(MADE, directory=run.parent, step=30)
    assert tree(run) == before


@pytest.mark.parametrize(
    "changed, message",
    [
        (experiment(Config(learning_rate=0.02)), "config.learning_rate: 0.01 there, 0.02 now"),
        (experiment(Config(seed=3)), "seed: 0 there, 3 now"),
        (dataclasses.replace(MADE, accumulate=2), "accumulate: 1 there, 2 now"),
        (dataclasses.replace(MADE, config=None), "config.hidden: 4 there, absent now"),
        (dataclasses.replace(MADE, optimizer=optax.sgd(0.1)), r"opt_state/0/mu/w: float32\[3,4\] there, absent now"),
        (
            dataclasses.replace(experiment(Config(hidden=5)), config=MADE.config),
            r"params/w: float32\[3,4\] there, float32\[3,5\] now",
        ),
    ],
)
def test_another_config_or_model_is_named(run, changed, message):
    before = tree(run)
    with pytest.raises(CheckpointError, match=message):
        start(run, changed, resume=True)
    assert tree(run) == before


def test_other_data_are_named(run, whole):
    """Another batch size, or other numbers, which are no option of the experiment."""
    before = tree(run)
    for change, message in (
        (
            lambda batch: {name: leaf[:4] for name, leaf in batch.items()},
            r"x: float32\[8,3\] there, float32\[4,3\] now",
        ),
        (lambda batch: batch | {"y": batch["y"] + 1}, r"y: float32\[8\] with other numbers than there\n.*--new-config"),
    ):
        changed = dataclasses.replace(MADE, batch=lambda step, change=change: change(MADE.batch(step)), steps=50)
        with pytest.raises(CheckpointError, match=message):
            start(run, changed, resume=True)
        assert tree(run) == before
    assert_same_bits(start(run, changed, resume=True, new_config=True)[0], whole[0])


def test_fewer_steps_than_were_made_are_named(run, whole):
    with pytest.raises(CheckpointError, match="is of step 40, but the run is to stop at step 20.*--steps"):
        start(run, resume=True, steps=20)
    with pytest.raises(ExperimentError, match="the state has 40 steps behind it, but the run is to stop at step 39"):
        train(MADE, state=whole[0], steps=39, directory=None, progress=False)
    assert train(MADE, state=whole[0], directory=None, progress=False).step == 40


def test_a_state_of_another_optimizer_or_model_is_named(whole):
    for changes, message in (
        ({"optimizer": optax.sgd(0.1)}, r"opt_state/0/mu/v: float32\[4\] there, absent now"),
        ({"optimizer": optax.adamw(0.1)}, "EmptyState there, .*EmptyState, EmptyState now"),
        ({"init": lambda key: {"w": np.ones((3, 4), np.float32)}}, r"params/none: float32\[0,2\] there, absent now"),
    ):
        with pytest.raises(ExperimentError, match=f"another model or optimizer than survivor:(.|\\n)*{message}"):
            train(dataclasses.replace(MADE, **changes), state=whole[0], directory=None, progress=False)


def test_a_config_with_nan_resumes_and_nested_ones_are_told_by_field(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Inner:
        rate: float = float("nan")
        kind: str = "a"

    @dataclasses.dataclass(frozen=True)
    class Outer:
        inner: Inner = Inner()

    made = dataclasses.replace(MADE, steps=1, config=Outer())
    train(made, directory=tmp_path, progress=False)
    assert start(tmp_path / "survivor", dataclasses.replace(made, steps=2), resume=True)[0].step == 1
    other = dataclasses.replace(made, config=Outer(Inner(kind="b")))
    with pytest.raises(CheckpointError, match=r"settings:\n  config.inner.kind: a there, b now\nUse"):
        start(tmp_path / "survivor", other, resume=True)


def test_a_checkpoint_may_be_loaded_within_init_on_a_mesh(whole):
    def init(key):
        return load_checkpoint(MADE, directory=whole[1].parent).params

    made = dataclasses.replace(MADE, name="tuned", init=init, steps=1, optimizer=optax.sgd(0.0))
    state = train(made, mesh="data=4", directory=None, progress=False)
    assert_same_bits(state.params, whole[0].params)


def test_another_backward_is_named(run):
    with pytest.raises(CheckpointError, match="backward: manual there, automatic now"):
        train(MADE, directory=run.parent, backward="automatic", resume=True)


def test_a_new_config_may_be_asked_for(run, whole):
    state, _ = start(run, experiment(Config(learning_rate=0.02)), resume=True, new_config=True)
    assert_same_bits(state, whole[0])


@pytest.mark.parametrize(
    "harm, note",
    [
        (lambda path: path.unlink(), "is missing: its records begin anew"),
        (lambda path: os.truncate(path, 100), r"had \d+ bytes at the checkpoint and has 100.*kept as metrics.damaged"),
        (lambda path: path.write_bytes(b"x" * path.stat().st_size), "line 1 is no record.*metrics.damaged"),
    ],
)
def test_damaged_metrics_are_told_and_do_not_stop_the_run(run, harm, note):
    harm(run / "metrics.jsonl")
    state, notes = start(run, resume=True)
    assert state.step == 40
    assert re.search(note, notes[-1])


def test_load_checkpoint(whole):
    directory = whole[1].parent
    assert load_checkpoint(MADE, directory=directory, step=30).step == 30
    assert load_checkpoint(MADE, directory=whole[1], step=30).step == 30  # the run's own folder
    with pytest.raises(CheckpointError, match="no checkpoint of step 31. The steps that it has: 20, 30, 40"):
        load_checkpoint(MADE, directory=directory, step=31)
    assert load_checkpoint(MADE, directory=directory, best="size", best_mode="max").step == 20
    assert load_checkpoint(MADE, directory=directory, best="size", best_mode="min").step == 40
    with pytest.raises(CheckpointError, match="no checkpoint with the metric 'accuracy'"):
        load_checkpoint(MADE, directory=directory, best="accuracy")
    with pytest.raises(CheckpointError, match="params/w"):
        load_checkpoint(experiment(Config(hidden=5)), directory=directory)


@pytest.mark.parametrize("options", [{"resume": True, "overwrite": True}, {"resume": True, "state": 0}])
def test_contradictions_are_refused(options):
    with pytest.raises(ExperimentError, match="give one of them"):
        train(MADE, directory=None, **options)


def test_settings_are_json_of_every_kind_of_field():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        path: pathlib.Path = pathlib.Path("a")
        shape: tuple = (1, 2)
        function: object = np.tanh

    made = dataclasses.replace(MADE, config=Odd())
    assert Run(made).settings["config"] == {"path": "a", "shape": [1, 2], "function": "tanh"}
