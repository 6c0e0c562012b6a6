"""Of several updates, the one that broke is replayed, from the parameters that those before it left."""

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from tests.training.step.test_several_updates import gan, generator_loss


def breaks_after(params, batch, key):
    """NaN once the critic has moved in this step: its weights are larger than before."""
    return generator_loss(params, batch, key) + jnp.sqrt(params["critic"]["0"]["w"] - 100.0).sum()


def test_replay_finds_the_update_and_the_line(tmp_path):
    experiment = gan(None, {"every": 2, "loss": breaks_after})
    with pytest.raises(fb.NonFiniteLoss):
        fb.train(experiment, directory=tmp_path, progress=False)
    found = fb.replay(experiment, directory=tmp_path)
    assert found.step == 1 and found.broken["params"] == [] and found.loss != found.loss
    assert "sqrt" in found.where and "test_broken_update.py" in found.where
    assert not jax.tree.leaves(found.state.opt_state)  # of the generator's plain descent
