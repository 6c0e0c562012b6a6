"""When steps were done is written beside the metrics, and is an axis of the report."""

import pytest

from fnbackprop.training.loop import train
from fnbackprop.training.record.throughput import Amount
from fnbackprop.training.record.times import Times, read_times, time_curves
from fnbackprop.training.run_folder import RunFolder, read_metrics
from tests.training.test_loop import regression


def test_a_run_that_goes_on_counts_from_where_it_was(tmp_path):
    folder, now = RunFolder(tmp_path), [100.0]
    times = Times(folder, 0, clock=lambda: now[0])
    for step, at in [(1, 101.0), (3, 102.0), (7, 110.0)]:
        now[0] = at
        times.row(step, Amount(8, "examples"))
    times.close()
    assert read_times(folder)[1] == {"step": 3, "seconds": 2.0, "examples_per_second": 16.0}
    now[0] = 500.0
    times = Times(folder, 4, clock=lambda: now[0])  # its checkpoint was of step 4
    now[0] = 501.0
    times.row(5, None)
    times.close()
    assert [(row["step"], row["seconds"]) for row in read_times(folder)] == [(1, 1.0), (3, 2.0), (5, 3.0)]
    assert read_times(folder)[-1]["steps_per_second"] == 2.0


def test_the_report_has_curves_over_time(tmp_path):
    train(regression(steps=6), directory=tmp_path, progress=False)
    folder = RunFolder(tmp_path / "regression")
    assert read_times(folder)[-1]["step"] == 5 and read_times(folder)[-1]["seconds"] > 0
    assert all("seconds" not in row for row in read_metrics(folder.path))
    folder.times.write_text('{"step": 0, "seconds": 60.0, "a_per_second": 1.0}\n{"step": 5, "seconds": 1200.0}\n')
    page = "".join(time_curves({"one": folder.read_metrics()}, [folder], str))
    assert page.count("<svg") == 2 and "minutes" in page and "a_per_second" in page
    assert time_curves({"one": []}, [RunFolder(tmp_path / "none")], str) == []


@pytest.mark.parametrize("step, place", [(0, 60.0), (10, 90.0), (20, 120.0)])
def test_between_two_lines_time_is_a_line(step, place):
    from fnbackprop.training.record.times import _at_times

    times = [{"step": 0, "seconds": 60.0}, {"step": 20, "seconds": 120.0}]
    assert _at_times([{"step": step, "loss": 1.0}], times, 1.0) == [{"step": place, "loss": 1.0}]
