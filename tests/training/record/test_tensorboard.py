"""TensorBoard is handed the records; without its package one is told how to get it."""

import math
import sys
import types

import pytest

from fnbackprop.extras import MissingExtra
from fnbackprop.training.record.run_log import RunLog
from fnbackprop.training.record.tensorboard import TensorBoard
from fnbackprop.training.run_folder import RunFolder


class Writer(list):
    """tensorboardX's interface."""

    def __init__(self, folder, purge_step):
        super().__init__([(folder, purge_step)])
        Writer.last = self

    def add_scalar(self, *what):
        self.append(what)

    def close(self):
        self.append("closed")


def test_records_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    with RunLog("run", None, start=0, stop=9, progress=False) as log:
        log.sinks.append(TensorBoard(RunFolder(tmp_path), 4))
        log.add_rows([{"step": 4, "loss": 0.5, "gradient_norm": math.nan}])
        log.add_evaluation(5, {"accuracy": 1.0})
    written = [(str(tmp_path / "tensorboard"), 4), ("loss", 0.5, 4), ("evaluate/accuracy", 1.0, 5), "closed"]
    assert Writer.last == written


def test_the_real_package(tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(RunFolder(tmp_path), 0)
    board.write([{"step": 0, "loss": 0.25}])
    board.close()
    [events] = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fnbackprop\[tensorboard\]'"):
        TensorBoard(RunFolder(tmp_path), 0)
