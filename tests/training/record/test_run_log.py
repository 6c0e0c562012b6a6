"""What a run says when its loss is no longer a number."""

import math

import pytest

from fnbackprop.training.record.metrics import read_metrics
from fnbackprop.training.record.run_log import NonFiniteLoss, Recorder


def record(step, loss, norm=1.0):
    return {"step": step, "loss": loss, "gradient_norm": norm}


@pytest.mark.parametrize(
    "records, step, message",
    [
        ([record(0, math.nan)], 0, r"the loss of run is nan at step 0, the first: .* data of batch\(0\)"),
        ([record(3, 2.0, 9e9), record(4, math.inf)], 4, "is inf at step 4; at step 3 it was 2 .*norm 9e.09.*lower"),
        ([record(3, 2.0, math.nan), record(4, math.nan)], 4, "The gradient broke first, at step 3"),
        (
            [record(1, 2.0, math.inf) | {"loss_scale": 2.0}, record(2, 2.0, math.inf) | {"loss_scale": 1.0}],
            2,
            'the gradient of run is inf at step 2, though .* precision="bfloat16"',
        ),
    ],
)
def test_non_finite_loss_names_the_step(tmp_path, records, step, message):
    with (
        pytest.raises(NonFiniteLoss, match=message) as raised,
        Recorder("run", tmp_path, start=0, stop=9, progress=False) as recorder,
    ):
        recorder.record(records)
    assert raised.value.step == step
    assert len(read_metrics(tmp_path)) == len(records)


def test_a_finite_loss_before_is_remembered_across_calls():
    recorder = Recorder("run", None, start=0, stop=9, progress=False)
    recorder.record([record(5, 1.25)])
    recorder.record([])
    with pytest.raises(NonFiniteLoss, match="at step 5 it was 1.25"):
        recorder.record([record(6, math.nan)])


def test_evaluation_is_written_and_shown(tmp_path, capsys):
    with Recorder("run", tmp_path, start=0, stop=9, progress=True) as recorder:
        recorder.evaluated(9, {"accuracy": 0.98765, "wrong": 4})
    assert read_metrics(tmp_path) == [{"step": 9, "evaluate/accuracy": 0.98765, "evaluate/wrong": 4}]
    assert capsys.readouterr().out == "run  step 9  accuracy 0.9877, wrong 4\n"
