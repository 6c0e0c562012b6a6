"""A line for each number; a run that goes on keeps those of the steps before."""

import csv

from fnbackprop.training.loggers import CSV
from tests.training.loggers.running import log_some, start


def lines(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [tuple(row) for row in csv.reader(file) if row[1] != "gradient_norm"]


def test_lines(tmp_path):
    log_some(CSV(), start(tmp_path))
    losses = [("0", "loss", "0.0"), ("1", "loss", "0.5"), ("2", "loss", "1.0")]
    assert lines(tmp_path) == [("step", "name", "value"), *losses, ("3", "evaluate/error", "0.25")]
    log_some(CSV(), start(tmp_path, step=2))  # it had been saved after two updates
    again = [("2", "loss", "1.0"), ("3", "loss", "1.5"), ("4", "loss", "2.0"), ("5", "evaluate/error", "0.25")]
    assert lines(tmp_path) == [("step", "name", "value"), *losses[:2], *again]
