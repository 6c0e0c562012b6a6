"""Which checkpoints count."""

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.writer import CheckpointWriter
from fnbackprop.training.run_folder import RunFolder


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
    writer = CheckpointWriter(RunFolder(run), **options)
    for step in steps:
        writer.write(state_of(step), {"step": step, "metrics": {} if metrics is None else {"loss": metrics[step]}})
    writer.close()
    return [found.step for found in list_checkpoints(RunFolder(run)) if found.finished]


def test_a_checkpoint_without_a_manifest_does_not_count(tmp_path):
    write(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "step_00000002" / "manifest.json").unlink()
    assert [found.finished for found in list_checkpoints(RunFolder(tmp_path))] == [True, False]
    assert write(tmp_path, 2) == [1, 2], "it is written again"


def test_a_renamed_checkpoint_is_damaged(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "checkpoints" / "step_00000001").rename(tmp_path / "checkpoints" / "step_00000002")
    (found,) = list_checkpoints(RunFolder(tmp_path))
    assert found.damage() == "its folder was renamed: it is of step 1"
