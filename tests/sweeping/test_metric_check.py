"""The metrics that the runs of a sweep will have are known before the first one."""

from pathlib import Path

import pytest

import fnbackprop
from fnbackprop.sweeping.metric_check import metrics_of, require_metric
from fnbackprop.sweeping.points import SweepError
from tests.test_cli import FILE
from tests.training.test_loop import regression


def test_those_of_steps_and_of_evaluations():
    made = regression(evaluate=lambda params: {"size": 1.0}, loss=lambda p, b, key: ((p["w"] ** 2).sum(), {"own": 2.0}))
    assert {"loss", "own", "size", "gradient_norm"} <= set(metrics_of(made))


def test_one_that_there_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(fnbackprop.__file__).parents[1]))
    (tmp_path / "line.py").write_text(FILE)
    require_metric("line.py", "gradient_norm", ["--steps", "2"])
    with pytest.raises(SweepError, match="no run has the metric 'acuracy'; they have .*loss"):
        require_metric("line.py", "acuracy", ["--shape", "square"])
