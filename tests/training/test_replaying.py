"""A step that broke is run again from the checkpoint before it, and the line where the number broke is named."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.errors import NonFiniteLoss
from fnbackprop.training.loop import train
from fnbackprop.training.replaying import replay, step_again
from tests.training.checkpoints.test_checkpoint import assert_same_bits
from tests.training.survivor import Config, experiment

MADE = experiment(Config(steps=12))


def breaking(params, batch, key):
    scale = jnp.log(batch["y"][0])  # the line that breaks: y may be negative
    return MADE.loss(params, batch, key) * scale


def batch(step):
    found = MADE.batch(step)
    found["y"] = np.abs(found["y"]) + np.float32(0.1)
    found["y"][0] *= np.float32(-1 if step == 7 else 1)
    return found


def test_replay_names_the_line(tmp_path):
    made = dataclasses.replace(MADE, loss=breaking, batch=batch)
    with pytest.raises(NonFiniteLoss, match=r"nan at step 7;(?s:.)*nonfinite/step_00000007.npz.*fb.replay") as raised:
        train(made, directory=tmp_path, checkpoint_every=3, progress=False)
    assert raised.value.step == 7
    found = replay(made, directory=tmp_path)
    assert (found.step, found.start) == (7, 6) and np.isnan(found.loss)
    assert replay(made, directory=tmp_path / made.name).step == 7  # the run's own folder
    fused = replay(made, directory=tmp_path, backward="fused")
    assert np.isnan(fused.loss)
    assert_same_bits(fused.state, found.state)  # nothing in this loss runs as a block
    with pytest.raises(ExperimentError, match="backward must be one of manual, fused, automatic, not 'manul'"):
        replay(made, directory=tmp_path, backward="manul")
    assert found.broken == {"params": [], "batch": [], "gradient": ["v", "w"]}
    line = next(
        n for n, text in enumerate(pathlib.Path(__file__).read_text().splitlines(), 1) if "that breaks:" in text
    )
    assert f"at log, test_replaying.py:{line}:" in found.where and "scale = jnp.log" in found.where
    assert_same_bits(found.state, train(made, steps=7, directory=None, progress=False))
    np.testing.assert_array_equal(found.batch["y"], batch(7)["y"])
    assert "step 7, run again from step 6: the loss is nan" in str(found) and "gradient: v, w" in str(found)


def test_a_run_without_a_folder_names_the_command():
    made = dataclasses.replace(MADE, loss=breaking, batch=batch)
    with pytest.raises(NonFiniteLoss, match="To find the line: fnbackprop trace FILE --after 7"):
        train(made, directory=None, progress=False)


def test_other_options_are_told_and_a_new_run_forgets(tmp_path):
    broken = dataclasses.replace(MADE, loss=breaking, batch=batch)
    with pytest.raises(NonFiniteLoss):
        train(broken, directory=tmp_path, progress=False)
    told = str(replay(dataclasses.replace(MADE, batch=batch), directory=tmp_path))
    assert "step 7, run again from step 0: the loss is " in told and "all is finite. Did the run have other" in told
    train(MADE, steps=1, directory=tmp_path, progress=False, overwrite=True)
    with pytest.raises(ExperimentError, match="has no batch"):
        replay(MADE, directory=tmp_path)


def test_a_step_that_was_not_kept_is_named(tmp_path):
    with pytest.raises(ExperimentError, match="nonfinite has no batch: one is kept when a loss is not finite"):
        replay(MADE, directory=tmp_path)
    with pytest.raises(ExperimentError, match="nonfinite has no batch of step 3"):
        replay(MADE, directory=tmp_path, step=3)


def test_a_step_after_the_end_of_a_run_is_refused(tmp_path):
    train(MADE, steps=4, directory=tmp_path, progress=False)
    (tmp_path / "survivor-2").mkdir()  # a run that failed at once is not the one that is meant
    (tmp_path / "survivor-2/run.json").write_text('{"name": "survivor", "status": "stopped", "step": 0}')
    assert step_again(MADE, step=4, directory=tmp_path, kept=False).start == 4
    with pytest.raises(ExperimentError, match="survivor ended after 4 steps: there is no step 9"):
        step_again(MADE, step=9, directory=tmp_path, kept=False)
