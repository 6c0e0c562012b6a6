"""When steps were done is written beside the metrics, and is an axis of the report."""

from fnbackprop.training.loop import train
from fnbackprop.training.record.run_report import write_run_report
from fnbackprop.training.record.throughput import Amount
from fnbackprop.training.record.times import Times, read_times, speed_curves
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


def test_the_report_has_the_speed_and_the_times_for_its_curves(tmp_path):
    train(regression(steps=6), directory=tmp_path, progress=False)
    folder = RunFolder(tmp_path / "regression")
    assert read_times(folder)[-1]["step"] == 5 and read_times(folder)[-1]["seconds"] > 0
    assert all("seconds" not in row for row in read_metrics(folder.path))
    folder.times.write_text('{"step": 0, "seconds": 60.0, "a_per_second": 1.0}\n{"step": 5, "seconds": 1200.0}\n')
    page = write_run_report([folder], tmp_path / "page.html").read_text()
    assert ">Speed<" in page and ">a per second<" in page and '"times":{"":[[0,5],[60.0,1200.0]]}' in page
    assert speed_curves({"one": []}) == []
