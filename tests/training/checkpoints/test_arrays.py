"""Every kind of array is restored exactly, where it is asked for, and nothing is pickled."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop.training
from fnbackprop.training.checkpoints.arrays import read_state
from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.writer import CheckpointWriter
from fnbackprop.training.run_folder import RunFolder
from tests.training.checkpoints.test_checkpoint import assert_same_bits, state_of, write


def test_round_trip_to_the_bit(tmp_path):
    assert write(tmp_path, 7) == [7]
    (found,) = list_checkpoints(RunFolder(tmp_path))
    assert found.damage() is None and found.info()["step"] == 7 and "jaxlib" in found.info()["versions"]
    assert found.info()["leaves"]["params/1"] == "bfloat16[6]"
    restored = read_state(found, like=state_of(0))
    assert_same_bits(restored, state_of(7))
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same_bits(restored, state_of(0))


def test_shardings_are_those_that_are_asked_for(tmp_path):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    writer = CheckpointWriter(RunFolder(tmp_path))
    writer.write({"w": jax.device_put(jnp.arange(8.0), split)}, {"step": 1, "metrics": {}})
    writer.close()
    (found,) = list_checkpoints(RunFolder(tmp_path))
    for like in (jnp.zeros(8), jax.device_put(jnp.zeros(8), split)):
        restored = read_state(found, {"w": like})["w"]
        assert restored.sharding == like.sharding
        np.testing.assert_array_equal(restored, np.arange(8.0))


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
