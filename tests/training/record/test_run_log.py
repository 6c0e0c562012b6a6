"""What a run says when its loss is no longer a number."""

import math

import pytest

from fnbackprop.training.errors import NonFiniteLoss
from fnbackprop.training.record import run_log
from fnbackprop.training.record.run_log import RunLog
from fnbackprop.training.run_folder import RunFolder, read_metrics


def row(step, loss, norm=1.0):
    return {"step": step, "loss": loss, "gradient_norm": norm}


@pytest.mark.parametrize(
    "rows, step, message",
    [
        ([row(0, math.nan)], 0, r"the loss of run is nan at step 0, the first. .* data of batch\(0\)"),
        ([row(3, 2.0, 9e9), row(4, math.inf)], 4, "is inf at step 4; at step 3 it was 2 .*norm 9e.09.*lower"),
        ([row(3, 2.0, math.nan), row(4, math.nan)], 3, "is nan at step 4; .* The gradient broke first, at step 3"),
        ([row(3, 2.0, math.nan) | {"loss_scale": 8.0}, row(4, math.nan)], 4, "is nan at step 4; .*lower"),
        (
            [row(1, 2.0, math.inf) | {"loss_scale": 2.0}, row(2, 2.0, math.inf) | {"loss_scale": 1.0}],
            2,
            'the gradient of run is inf at step 2, though .* precision="bfloat16"',
        ),
    ],
)
def test_non_finite_loss_names_the_step(tmp_path, rows, step, message):
    with (
        pytest.raises(NonFiniteLoss, match=message) as raised,
        RunLog("run", RunFolder(tmp_path), start=0, stop=9, progress=False) as log,
    ):
        log.add_rows(rows)
    assert raised.value.step == step
    assert len(read_metrics(tmp_path)) == len(rows)


def test_a_finite_loss_before_is_remembered_across_calls():
    log = RunLog("run", None, start=0, stop=9, progress=False)
    log.add_rows([row(5, 1.25)])
    log.add_rows([])
    with pytest.raises(NonFiniteLoss, match="at step 5 it was 1.25"):
        log.add_rows([row(6, math.nan)])


def test_evaluation_is_written_and_shown(tmp_path, capsys):
    with RunLog("run", RunFolder(tmp_path), start=0, stop=9, progress=True) as log:
        log.add_evaluation(9, {"accuracy": 0.98765, "wrong": 4})
    assert read_metrics(tmp_path) == [{"step": 9, "evaluate/accuracy": 0.98765, "evaluate/wrong": 4}]
    assert capsys.readouterr().out.splitlines()[1:] == ["run  step 9  evaluate: accuracy 0.9877, wrong 4"]


@pytest.mark.parametrize("broken", [OSError("the disk is full"), ValueError("no such backend")])
def test_curves_that_cannot_be_drawn_are_told_once_and_end_no_run(tmp_path, monkeypatch, capsys, broken):
    def refuse(*args):
        raise broken

    monkeypatch.setattr(run_log, "plot_curves", refuse)
    with RunLog("run", RunFolder(tmp_path), start=0, stop=1, progress=True) as log:
        log.add_rows([row(0, 1.0)])
        log.draw_curves("run")
        log.say_what_is_there("run")
    assert capsys.readouterr().out.count(f"the curves cannot be drawn: {broken}") == 1


def test_the_records_are_read_again_only_if_there_are_more(tmp_path, monkeypatch):
    reads, read = [], RunFolder.read_records
    monkeypatch.setattr(RunFolder, "read_records", lambda folder: reads.append(folder) or read(folder))
    with RunLog("run", folder := RunFolder(tmp_path), start=0, stop=2, progress=False) as log:
        assert log.records(folder) == ([], 0)
        log.add_rows([row(0, 1.0)])
        assert log.records(folder) == log.records(folder) == read(folder) and len(reads) == 2
        log.add_rows([row(1, 0.5)])
        assert [one["loss"] for one in log.records(folder)[0]] == [1.0, 0.5] and len(reads) == 3
