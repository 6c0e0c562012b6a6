"""Checkpoints hold every kind of array, exactly; the last and the best are kept; a disk that is full loses none."""

import ast
import contextlib
import gc
import pathlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop.training
from fnbackprop.training.checkpoints import checkpoint as checkpoints
from fnbackprop.training.checkpoints.checkpoint import CheckpointError, CheckpointWriter, list_checkpoints, read_state


def state_of(seed: int, size: int = 6) -> dict:
    random = np.random.default_rng(seed)
    values = jnp.asarray(random.normal(size=size), jnp.float32)
    return {
        "params": [values, values.astype(jnp.bfloat16), jnp.zeros((0, 3)), jnp.asarray(random.normal(size=2) * 1j)],
        "counts": (jnp.int32(seed), jnp.array([True, False]), None, {}),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "nan": jnp.array([jnp.nan, -jnp.inf, -0.0]),
    }


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def write(run, *steps, metrics=None, **options):
    writer = CheckpointWriter(run, **options)
    for step in steps:
        writer.write(state_of(step), {"step": step, "metrics": {} if metrics is None else {"loss": metrics[step]}})
    writer.close()
    return [found.step for found in list_checkpoints(run) if found.finished]


def test_round_trip_to_the_bit(tmp_path):
    assert write(tmp_path, 7) == [7]
    (found,) = list_checkpoints(tmp_path)
    assert found.damage() is None and found.info()["step"] == 7 and "jaxlib" in found.info()["versions"]
    assert found.info()["leaves"]["params/1"] == "bfloat16[6]"
    restored = read_state(found, like=state_of(0))
    assert_same_bits(restored, state_of(7))
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same_bits(restored, state_of(0))


def test_shardings_are_those_that_are_asked_for(tmp_path):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    writer = CheckpointWriter(tmp_path)
    writer.write({"w": jax.device_put(jnp.arange(8.0), split)}, {"step": 1, "metrics": {}})
    writer.close()
    (found,) = list_checkpoints(tmp_path)
    for like in (jnp.zeros(8), jax.device_put(jnp.zeros(8), split)):
        restored = read_state(found, {"w": like})["w"]
        assert restored.sharding == like.sharding
        np.testing.assert_array_equal(restored, np.arange(8.0))


def test_the_last_are_kept_and_the_best(tmp_path):
    losses = {1: 0.5, 2: 0.1, 3: 0.4, 4: 0.3, 5: float("nan")}
    assert write(tmp_path / "a", *losses, metrics=losses, keep=2) == [4, 5]
    assert write(tmp_path / "b", *losses, metrics=losses, keep=2, best="loss", best_mode="min") == [2, 4, 5]
    assert write(tmp_path / "c", *losses, metrics=losses, keep=1, best="loss") == [1, 5]
    assert write(tmp_path / "d", *losses, metrics=losses, keep=None) == [1, 2, 3, 4, 5]


def test_a_checkpoint_without_a_manifest_does_not_count(tmp_path):
    write(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "step_00000002" / "manifest.json").unlink()
    assert [found.finished for found in list_checkpoints(tmp_path)] == [True, False]
    assert write(tmp_path, 2) == [1, 2], "it is written again"


def test_a_renamed_checkpoint_is_damaged(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "checkpoints" / "step_00000001").rename(tmp_path / "checkpoints" / "step_00000002")
    (found,) = list_checkpoints(tmp_path)
    assert found.damage() == "its folder was renamed: it is of step 1"


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
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.write(state_of(1), {"step": 1, "metrics": {}})
    writer.finish()
    with (
        files_of_at_most(size),
        pytest.raises(CheckpointError, match="step_00000002 could not be written: .*The last one .*step_00000001"),
    ):
        writer.write(state_of(2, size=100_000), {"step": 2, "metrics": {}})  # 400 kB that cannot be compressed
        writer.finish()
    assert [found.step for found in list_checkpoints(tmp_path)] == [1]
    writer.write(state_of(3), {"step": 3, "metrics": {}})
    writer.close()
    (found,) = list_checkpoints(tmp_path)
    assert found.step == 3 and found.damage() is None
    gc.collect()  # the abandoned coroutines go here, not in a later test


def test_a_checkpoint_that_cannot_be_begun_is_told(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    write(tmp_path, 1)
    monkeypatch.setattr(checkpoints.Path, "mkdir", full)
    with pytest.raises(CheckpointError, match="No space left on device. The last one written is .*step_00000001"):
        CheckpointWriter(tmp_path).write(state_of(2), {"step": 2, "metrics": {}})


def test_nothing_is_pickled(tmp_path):
    write(tmp_path, 1)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or not path.read_bytes().startswith(b"\x80")
    for path in pathlib.Path(fnbackprop.training.__file__).parent.rglob("*.py"):
        named = {
            name.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for name in node.names
        }
        assert not named & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
