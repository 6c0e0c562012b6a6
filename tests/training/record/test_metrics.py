"""Metrics come back in order, without waiting for the newest steps, and survive the file."""

import math

import numpy as np
import pytest

from fnbackprop.training.record.metrics import MetricBuffer, MetricsFile, curve
from fnbackprop.training.run_folder import read_metrics


class Value:
    """A metric on the device, which has ended its step when someone waits for it, or before."""

    def __init__(self, value, ended=False):
        self.value, self.ended = value, ended

    def is_ready(self):
        return self.ended

    def block_until_ready(self):
        self.ended = True

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value)


def metrics_of(step: int, ended: bool = False) -> dict:
    return {"loss": Value(step / 2, ended), "hits": Value(step, ended)}


def test_buffer_keeps_the_newest_steps_back():
    buffer = MetricBuffer(in_flight=2, interval=0.0)
    fetched = [[record["step"] for record in buffer.add(step, metrics_of(step))] for step in range(5)]
    assert fetched == [[], [], [0], [1], [2]]
    assert buffer.rest() == [{"step": 3, "loss": 1.5, "hits": 3}, {"step": 4, "loss": 2.0, "hits": 4}]
    assert buffer.rest() == []


@pytest.mark.parametrize(("seconds", "together"), [(0.25, 4), (0.001, 32), (3.0, 1)])
def test_buffer_waits_for_as_many_steps_as_fit_an_interval(seconds, together):
    """A device that is slower than the host: a step ends when it is waited for."""
    now = [0.0]
    buffer = MetricBuffer(in_flight=2, interval=1.0, clock=lambda: now[0])
    fetched = []
    for step in range(100):
        fetched.append([record["step"] for record in buffer.add(step, metrics_of(step))])
        now[0] += seconds
    assert fetched[:3] == [[], [], [0]]  # how long a step takes is not known before
    sizes = [len(steps) for steps in fetched[4:] if steps]
    assert sizes == [together] * (96 // together)
    assert sum(fetched, []) == list(range(2 + sum(sizes)))


def test_buffer_of_a_slow_host_keeps_nothing_back():
    now = [0.0]
    buffer = MetricBuffer(in_flight=2, interval=1.0, clock=lambda: now[0])
    fetched = []
    for step in range(45):
        now[0] += 0.001 if step < 40 else 5.0  # many steps at once; then the data are slow
        fetched.append([record["step"] for record in buffer.add(step, metrics_of(step, ended=True))])
    assert len(max(fetched, key=len)) == 34
    assert [steps[-1:] for steps in fetched[40:]] == [[40], [41], [42], [43], [44]]


def test_file_round_trip(tmp_path):
    records = [
        {"step": 0, "loss": 1.5, "hits": 3},
        {"step": 1, "loss": math.nan, "hits": 4},
        {"step": 2, "loss": math.inf},
    ]
    file = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    file.write(records[:2])
    file.close()
    file = MetricsFile(tmp_path / "run" / "metrics.jsonl", append=True)
    file.write(records[2:])
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1:] == [
        '{"step": 1, "loss": null, "hits": 4}',
        '{"step": 2, "loss": null}',
    ]
    file.close()
    read = read_metrics(tmp_path / "run")
    assert read[0] == records[0] and math.isnan(read[1]["loss"]) and read[1]["hits"] == 4
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3


def test_an_array_of_metrics_may_hold_what_is_not_finite(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write([{"step": 0, "loss": math.nan, "each": [1.0, math.inf]}])
    file.close()
    [row] = read_metrics(tmp_path)
    assert math.isnan(row["loss"]) and row["each"] == [1.0, math.inf]


def test_a_new_file_replaces_the_old_one(tmp_path):
    for loss in (1.0, 2.0):
        file = MetricsFile(tmp_path / "metrics.jsonl")
        file.write([{"step": 0, "loss": loss}])
        file.close()
    assert read_metrics(tmp_path) == [{"step": 0, "loss": 2.0}]


def test_curve_skips_records_without_the_metric():
    records = [{"step": 0, "loss": 3.0}, {"step": 1, "evaluate/accuracy": 0.5}, {"step": 1, "loss": 2.0}]
    assert curve(records, "loss") == ([0, 1], [3.0, 2.0])
