"""TensorBoard is handed what is finite; without its package one is told how to get it."""

import sys
import types

import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.extras import MissingExtra
from fnbackprop.training.loggers import TensorBoard
from tests.training.loggers.running import log_some, start


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
    log_some(TensorBoard(), start(tmp_path, step=4))
    losses = [("loss", 0.5 * step, step) for step in (4, 5, 6)]
    assert Writer.last == [(str(tmp_path / "tensorboard"), 4), *losses, ("evaluate/error", 0.25, 7), "closed"]


def test_the_real_package(tmp_path):
    pytest.importorskip("tensorboardX")
    log_some(TensorBoard(), start(tmp_path))
    [events] = (tmp_path / "tensorboard").iterdir()
    assert b"evaluate/error" in events.read_bytes()


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fnbackprop\[tensorboard\]'"):
        TensorBoard().start(start(tmp_path))
    with pytest.raises(ExperimentError, match="give train a directory"):
        TensorBoard().start(start(None))
