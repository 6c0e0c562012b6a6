"""Weights & Biases, offline: what was logged is read back from its own file."""

import sys
import time

import pytest

from fnbackprop.extras import MissingExtra
from fnbackprop.training.loggers import WandB
from tests.training.loggers.running import log_some, start


@pytest.mark.filterwarnings("ignore")  # of its client
def test_offline(tmp_path):
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    logger = WandB(project="sea", options={"mode": "offline", "settings": wandb.Settings(silent=True)})
    log_some(logger, start(tmp_path))
    [written] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    words = (b"waves-2", b"sea", b"evaluate/error", b"width", b"report.html")
    deadline = time.monotonic() + 20
    while not all(word in written.read_bytes() for word in words) and time.monotonic() < deadline:
        time.sleep(0.05)  # its own process writes the file
    assert [word for word in words if word not in written.read_bytes()] == []
    identity = start(tmp_path, step=2).identity("wandb")
    assert identity in written.name and start(tmp_path).identity("wandb") is None


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fnbackprop\[wandb\]'"):
        WandB().start(start(tmp_path))
