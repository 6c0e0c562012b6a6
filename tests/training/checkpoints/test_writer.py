"""The last checkpoints are kept and the best; a disk that is full loses none."""

import contextlib
import gc
import resource

import pytest

from fnbackprop.training.checkpoints import checkpoint as checkpoints
from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.writer import CheckpointWriter
from fnbackprop.training.errors import CheckpointError
from fnbackprop.training.run_folder import RunFolder
from tests.training.checkpoints.test_checkpoint import state_of, write


def test_the_last_are_kept_and_the_best(tmp_path):
    losses = {1: 0.5, 2: 0.1, 3: 0.4, 4: 0.3, 5: float("nan")}
    assert write(tmp_path / "a", *losses, metrics=losses, keep=2) == [4, 5]
    assert write(tmp_path / "b", *losses, metrics=losses, keep=2, best="loss", best_mode="min") == [2, 4, 5]
    assert write(tmp_path / "c", *losses, metrics=losses, keep=1, best="loss") == [1, 5]
    assert write(tmp_path / "d", *losses, metrics=losses, keep=None) == [1, 2, 3, 4, 5]


@contextlib.contextmanager
def files_of_at_most(size):
    """The operating system refuses larger files, as it would any on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax abandons its coroutines then
@pytest.mark.parametrize("size", [200_000, 10])  # the array's file is refused, or every one
def test_a_disk_that_refuses_keeps_the_last_good_one(tmp_path, size):
    writer = CheckpointWriter(RunFolder(tmp_path), keep=1)
    writer.write(state_of(1), {"step": 1, "metrics": {}})
    writer.finish()
    with (
        files_of_at_most(size),
        pytest.raises(CheckpointError, match="step_00000002 could not be written: .*The last one .*step_00000001"),
    ):
        writer.write(state_of(2, size=100_000), {"step": 2, "metrics": {}})  # 400 kB that cannot be compressed
        writer.finish()
    assert [found.step for found in list_checkpoints(RunFolder(tmp_path))] == [1]
    writer.write(state_of(3), {"step": 3, "metrics": {}})
    writer.close()
    (found,) = list_checkpoints(RunFolder(tmp_path))
    assert found.step == 3 and found.damage() is None
    gc.collect()  # the abandoned coroutines go here, not in a later test


def test_what_is_left_of_a_checkpoint_that_failed_goes_with_the_next(tmp_path):
    run, writer = RunFolder(tmp_path), CheckpointWriter(RunFolder(tmp_path))
    (run.checkpoint(2) / "state").mkdir(parents=True)  # orbax wrote on after its error
    writer.write(state_of(3), {"step": 3, "metrics": {}})
    writer.close()
    assert [found.step for found in list_checkpoints(run)] == [3]


def test_a_checkpoint_that_cannot_be_begun_is_told(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    write(tmp_path, 1)
    monkeypatch.setattr(checkpoints.Path, "mkdir", full)
    with pytest.raises(CheckpointError, match="No space left on device. The last one written is .*step_00000001"):
        CheckpointWriter(RunFolder(tmp_path)).write(state_of(2), {"step": 2, "metrics": {}})


def test_some_are_kept_for_good(tmp_path):
    from fnbackprop.training.loop import train
    from tests.training.test_loop import regression

    train(regression(steps=6), directory=tmp_path, progress=False, checkpoint_every=1, keep=1, keep_every=2)
    train(regression(steps=5, name="other"), directory=tmp_path, progress=False, keep_every=2)  # none is due but these
    for name, last in (("regression", 6), ("other", 5)):
        steps = sorted(path.name for path in (tmp_path / name / "checkpoints").iterdir())
        assert steps == [f"step_0000000{n}" for n in sorted({2, 4, last})]
