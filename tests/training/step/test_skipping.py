"""Updates of steps that are not finite are left out and counted; too many on end end the run."""

import math

import jax
import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.errors import NonFiniteLoss
from fnbackprop.training.loop import train
from fnbackprop.training.run_folder import read_metrics
from tests.training.checkpoints.test_checkpoint import assert_same_bits
from tests.training.step.test_weight_update import noisy_regression
from tests.training.test_loop import regression


def with_bad_steps(*bad, **changes):
    def batch(step):
        found = regression().batch(step)
        return found | {"y": found["y"] * np.float32(math.nan if step in bad else 1)}

    return regression(batch=batch, steps=8, **changes)


def test_they_are_left_out_and_counted(tmp_path, capsys):
    experiment = with_bad_steps(2, 3, 6, skip_nonfinite=2, ema=0.5)
    state = train(experiment, directory=tmp_path / "whole")
    rows = read_metrics(tmp_path / "whole/regression")
    assert [row["skipped"] for row in rows] == [0, 0, 1, 2, 2, 2, 3, 3]
    assert [row["skipped_in_a_row"] for row in rows] == [0, 0, 1, 2, 0, 0, 1, 0]
    assert np.isfinite(state.params["w"]).all() and state.step == 8 and state.skipped.total == 3
    assert "step 3: the loss is nan, the gradient's norm nan: not updated (2 so far)" in capsys.readouterr().out
    train(experiment, steps=3, directory=tmp_path / "parts", progress=False)
    assert_same_bits(train(experiment, directory=tmp_path / "parts", progress=False, resume=True), state)


def test_without_bad_steps_nothing_changes():
    plain, counted = (train(with_bad_steps(skip_nonfinite=n), directory=None, progress=False) for n in (None, 1))
    assert_same_bits(counted.params, plain.params)


def test_too_many_on_end_end_the_run():
    with pytest.raises(NonFiniteLoss, match="at step 4 .* for 3 steps on end, and skip_nonfinite allows 2") as raised:
        train(with_bad_steps(2, 3, 4, skip_nonfinite=2), directory=None, progress=False)
    assert raised.value.step == 4
    with pytest.raises(ExperimentError, match="skip_nonfinite must be an integer of at least 1"):
        regression(skip_nonfinite=0)


def test_with_a_loss_scale_only_a_loss_that_is_not_finite_counts():
    plain = noisy_regression()

    def batch(step):
        return jax.tree.map(lambda x: x * np.float32(math.nan if step == 2 else 1), plain.batch(step))

    made = noisy_regression(batch=batch, steps=4, skip_nonfinite=1, precision="float16")
    state = train(made, directory=None, progress=False)
    assert state.skipped.total == 1 and np.isfinite(state.params["w"]).all()
