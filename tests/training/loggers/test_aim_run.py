"""Aim, in a repository on this machine: what was logged is read back by its own client."""

import sys

import pytest

from fnbackprop.extras import MissingExtra
from fnbackprop.training.loggers import Aim
from tests.training.loggers.running import CONFIG, log_some, start


@pytest.mark.filterwarnings("ignore")  # of its client
def test_a_repository(tmp_path):
    aim = pytest.importorskip("aim", reason="the extra aim is not installed")
    log_some(Aim(repo=str(tmp_path)), start(tmp_path))
    log_some(Aim(repo=str(tmp_path)), start(tmp_path, step=2))  # it goes on in the same run
    assert len(aim.Repo(str(tmp_path)).list_all_runs()) == 1
    found = aim.Run(start(tmp_path, step=2).identity("aim"), repo=str(tmp_path), system_tracking_interval=None)
    assert found.name == "waves-2" and found.experiment == "waves"
    assert found["config"] == CONFIG and found["status"] == "finished" and found["run", "seed"] == 0
    series = {metric.name: metric.data.numpy() for metric in found.metrics()}
    steps, (values, *_) = series["loss"]
    assert steps.tolist() == [0, 1, 2, 3, 4] and values.tolist() == [0, 0.5, 1, 1.5, 2]
    assert set(series) == {"loss", "evaluate/error"}  # a gradient's norm of NaN is none


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aim", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fnbackprop\[aim\]'"):
        Aim().start(start(tmp_path))
