"""Ctrl-C and SIGTERM end a run between two steps, with its state saved; a second Ctrl-C ends it at once."""

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest

from fnbackprop.cli import main
from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.resuming import load_checkpoint
from fnbackprop.training.data import prefetching
from fnbackprop.training.loop import train
from fnbackprop.training.record import run_description
from fnbackprop.training.run_folder import RunFolder
from fnbackprop.training.stopping import Interrupted, Signals
from tests.training.checkpoints.test_resuming import ROOT, survivor
from tests.training.survivor import Config, experiment


@pytest.fixture(autouse=True)
def as_in_the_foreground():
    """A job in the background, as a continuous integration may be, is started with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


STATUS = {"SIGTERM": 143, "SIGUSR1": 138, "SIGHUP": 129}


@pytest.mark.parametrize("name", ["SIGINT", *STATUS])
def test_a_signal_ends_the_run_between_two_steps_and_saves(tmp_path, capfd, name):
    made = experiment(Config(steps=9))

    def evaluate(params):  # within a step, after the sixth update
        signal.raise_signal(signal.Signals[name])
        return {}

    made = dataclasses.replace(made, evaluate=evaluate, evaluate_every=6)
    with pytest.raises(Interrupted if name == "SIGINT" else SystemExit) as ended:
        train(made, directory=tmp_path, trial=False)
    assert name == "SIGINT" or ended.value.code == STATUS[name]
    printed = capfd.readouterr()
    assert f"{name}: stopping after this step" in printed.err
    assert "6 steps are saved. To go on from there: resume=True, or --resume" in printed.out
    assert load_checkpoint(made, directory=tmp_path).step == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handlers are put back"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_signal_ends_a_run_whose_data_hang(tmp_path, monkeypatch, capfd, prefetch):
    monkeypatch.setattr(prefetching, "SECONDS_TO_END", 0.1)
    made, forever = experiment(Config(steps=9)), threading.Event()

    def batch(step):
        if step == 5:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            forever.wait(60)
        return made.batch(step)

    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        train(dataclasses.replace(made, batch=batch), directory=tmp_path, progress=False, prefetch=prefetch)
    forever.set()
    assert ended.value.code == 143 and time.monotonic() - began < 30
    assert ended.value.state.step == 5 and np.isfinite(ended.value.state.params["w"]).all()
    assert "SIGTERM: stopping." in capfd.readouterr().err
    assert load_checkpoint(made, directory=tmp_path).step == 5


@pytest.mark.parametrize("breaks", [False, True])
def test_a_signal_after_the_last_step_lets_the_run_be_described(tmp_path, monkeypatch, breaks):
    """What is drawn at the end is whole, and what ended the run is told rather than the signal."""

    def drawn(*arguments):
        signal.raise_signal(signal.SIGINT)
        return write_run_report(*arguments)

    def batch(step):
        if breaks and step == 3:
            raise ConnectionError("the data are gone")
        return made.batch(step)

    write_run_report = run_description.write_run_report
    monkeypatch.setattr(run_description, "write_run_report", drawn)
    made = experiment(Config(steps=4))
    with pytest.raises(ConnectionError if breaks else Interrupted):
        train(dataclasses.replace(made, batch=batch), directory=tmp_path, progress=False)
    written = {path.name for path in (tmp_path / "survivor").iterdir()}
    assert {"report.html", "curves.svg"} <= written and RunFolder(tmp_path / "survivor").read_description()[
        "step"
    ] == 4 - breaks
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_ends_at_once(tmp_path):
    done = survivor(tmp_path, send="evaluate SIGINT SIGINT")
    assert done.returncode == -signal.SIGINT and "Traceback" not in done.stderr
    assert list_checkpoints(RunFolder(tmp_path / "survivor")) == []


def test_exit_statuses(tmp_path, monkeypatch):
    file = str(ROOT / "tests" / "training" / "survivor.py")
    monkeypatch.setenv("SEND", "2 SIGINT")
    assert main(["train", file, "--steps", "4", "--directory", str(tmp_path)]) == 130
    monkeypatch.setenv("SEND", "-1")
    assert main(["train", file, "--steps", "4", "--directory", str(tmp_path), "--resume"]) == 0


def test_handlers_of_the_program_are_left_alone():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGTERM)
            signals.raise_received(1, None)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM, signal.SIGTERM]


def test_outside_the_main_thread_no_signal_is_received():
    def use():
        with Signals():
            done.append(signal.getsignal(signal.SIGINT))

    done = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


def test_without_a_folder_the_state_is_in_the_exception():
    def callback(step, state, values):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    made = experiment(Config(steps=9))
    with pytest.raises(Interrupted) as ended:
        train(made, directory=None, progress=False, callbacks=[callback], trial=False)
    assert ended.value.state.step == 3
    assert train(made, directory=None, progress=False, state=ended.value.state, trial=False).step == 9
