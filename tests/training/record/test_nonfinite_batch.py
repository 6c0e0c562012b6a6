"""The batch of a loss that is not finite comes back from its file, bit for bit, without pickle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.training.errors import NonFiniteLoss
from fnbackprop.training.record.nonfinite_batch import keep_nonfinite_batch, read_batch, write_batch
from fnbackprop.training.run_folder import RunFolder
from tests.training.checkpoints.test_checkpoint import assert_same_bits
from tests.training.survivor import Config, experiment

BATCH = {
    "x": np.float32([[1.5, np.nan]]),
    "deep": {"low": jnp.array([1.5, -0.0], jnp.bfloat16), "key": jax.random.key(3)},
    "labels": (np.int32([3]), 2),
}


@pytest.mark.parametrize("batch", [BATCH, np.float64([2.5])])
def test_round_trip(tmp_path, batch):
    path = write_batch(tmp_path / "deep" / "step.npz", batch)
    assert_same_bits(*(jax.tree.map(jnp.asarray, tree) for tree in (read_batch(path, batch), batch)))


def test_a_batch_of_another_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds \['a'\], but batch\(step\) has \['b'\]"):
        read_batch(write_batch(tmp_path / "step.npz", {"a": 1}), {"b": 1})


def test_only_a_loss_that_is_not_finite_keeps_its_batch(tmp_path):
    for other in (None, ValueError()):
        keep_nonfinite_batch(experiment(Config()), RunFolder(tmp_path), other)
    assert list(tmp_path.iterdir()) == []
    error = NonFiniteLoss("it broke", 4)
    keep_nonfinite_batch(experiment(Config()), RunFolder(tmp_path), error)
    kept = tmp_path / "nonfinite" / "step_00000004.npz"
    what_next = "To run that step again: fb.replay(experiment)"
    assert f"{error}" == f"it broke\nThe batch of step 4 is kept in {kept}. {what_next}"
    np.testing.assert_array_equal(np.load(kept)["x"], experiment(Config()).batch(4)["x"])


@pytest.mark.parametrize(
    "batch, told",
    [
        (BATCH, "(x)"),
        (np.float32([1, np.inf]), "(the array)"),
        ({"x": np.float32(np.nan), "y": np.float32(np.inf)}, "(x, y)"),
    ],
)
@pytest.mark.parametrize("written", [True, False])
def test_a_batch_that_is_itself_not_finite_is_told_instead_of_advice_on_the_rate(tmp_path, batch, told, written):
    error = NonFiniteLoss("it broke.", 4, "Try a lower learning rate.")
    assert str(error) == "it broke. Try a lower learning rate."
    made = dataclasses.replace(experiment(Config()), batch=lambda step: batch)
    keep_nonfinite_batch(made, RunFolder(tmp_path) if written else None, error)
    assert str(error).splitlines()[0] == f"it broke. The batch of step 4 is itself not finite {told}: look at the data."
    assert ("is kept in " if written else "fnbackprop trace FILE --after 4") in str(error)


def test_a_batch_that_cannot_be_kept_does_not_hide_the_error(tmp_path):
    (tmp_path / "nonfinite").touch()
    error = NonFiniteLoss("it broke", 4)
    keep_nonfinite_batch(experiment(Config()), RunFolder(tmp_path), error)
    assert str(error).startswith("it broke\nThe batch of step 4 could not be kept: ")
