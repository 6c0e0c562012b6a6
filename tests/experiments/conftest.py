"""What short runs of the experiments share."""

import functools

import pytest

import fnbackprop as fb


@pytest.fixture
def in_memory(monkeypatch):
    """Runs leave nothing behind: curves, reports and checkpoints, which have their own tests, take the most time."""
    monkeypatch.setattr(fb, "train", functools.partial(fb.train, directory=None))
