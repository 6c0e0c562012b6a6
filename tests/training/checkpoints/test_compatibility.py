"""What differs between a checkpoint and the run that would go on from it is named, a few lines of it."""

import jax.numpy as jnp
import pytest

from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.compatibility import require_same_leaves, require_same_settings
from fnbackprop.training.checkpoints.writer import CheckpointWriter
from fnbackprop.training.errors import CheckpointError
from fnbackprop.training.run_folder import RunFolder

STATE = {f"w{i:02}": jnp.zeros(3) for i in range(12)}
SETTINGS = {"seed": 0, "config": {"hidden": 4, "rate": 0.5}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    writer = CheckpointWriter(run)
    writer.write(STATE, {"step": 1, "metrics": {}, "settings": SETTINGS})
    writer.close()
    return list_checkpoints(run)[0]


def test_the_same_passes(checkpoint):
    require_same_settings(checkpoint, SETTINGS)
    require_same_leaves(checkpoint, STATE)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"seed": 1, "config": SETTINGS["config"]}, r"other settings:\n  seed: 0 there, 1 now\nUse"),
        ({"seed": 0, "config": {"hidden": 4}}, "config.rate: 0.5 there, absent now"),
        ({"seed": 0, "config": SETTINGS["config"] | {"new": 1}}, "config.new: absent there, 1 now"),
    ],
)
def test_other_settings(checkpoint, settings, message):
    with pytest.raises(CheckpointError, match=message):
        require_same_settings(checkpoint, settings)


def test_other_leaves_are_named_up_to_eight(checkpoint):
    with pytest.raises(CheckpointError, match=r"w05: float32\[3\] there, int32\[3\] now"):
        require_same_leaves(checkpoint, STATE | {"w05": jnp.zeros(3, jnp.int32)})
    with pytest.raises(CheckpointError, match=r"w07: float32\[3\] there, float32\[4\] now\n  and 4 more\n"):
        require_same_leaves(checkpoint, {name: jnp.zeros(4) for name in STATE})
