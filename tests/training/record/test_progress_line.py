"""Progress: a line each minute in a pipe, one live line on a terminal."""

import pytest
import rich
from rich.console import Console

from fnbackprop.training.record import progress_line
from fnbackprop.training.record.progress_line import (
    LiveProgress,
    PlainProgress,
    Rate,
    SilentProgress,
    describe,
    make_progress,
)
from fnbackprop.training.record.throughput import Amount


def records(steps):
    return [{"step": step, "loss": 1 / (step + 1), "gradient_norm": 0.5} for step in steps]


def test_rate_leaves_the_first_record_out():
    now = iter([10.0, 12.0]).__next__
    rate = Rate(stop=101, clock=now)
    assert rate.after(0) == (0.0, 0.0)
    assert rate.after(50) == (25.0, 2.0)


def test_plain_progress_says_where_it_writes_and_then_how_it_goes_each_minute(capsys):
    seconds = iter(range(0, 3000, 10))  # each look at the clock is 10 s later
    shown = PlainProgress("digits", 0, 100, "in runs/digits", clock=lambda: float(next(seconds)))
    assert capsys.readouterr().out == "digits: 100 steps, in runs/digits\n"
    for step in range(100):
        shown.show([row | {"accuracy": 0.5, "gradient_norm/deep": 1.0} for row in records([step])])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "digits  step 1/100  loss 1  grad 5.0e-01  0:10 so far  accuracy 0.5"
    assert printed[-1].startswith("digits  step 100/100  loss 0.01  grad 5.0e-01")
    times = [line.split(" so far")[0].split()[-1] for line in printed]
    assert times[:4] == ["0:10", "1:10", "2:10", "3:10"]
    PlainProgress("digits", 40, 100, "nothing is written")
    assert capsys.readouterr().out == "digits: 60 steps after 40, nothing is written\n"


def test_a_pipe_gets_no_live_line_though_colours_are_forced(monkeypatch, capsys):
    monkeypatch.setattr(rich, "_console", Console(force_terminal=True))
    assert isinstance(make_progress("digits", 0, 10), PlainProgress)


def test_describe():
    record = {"step": 3, "loss": 0.123456, "gradient_norm": 12.0}
    assert describe(record, 812.4, 65) == "loss 0.1235  grad 1.2e+01  812 steps/s  1:05 left"
    assert describe(record, 0.0, 0.0) == "loss 0.1235  grad 1.2e+01"
    tokens = Amount(2048, "tokens")
    assert describe(record | {"update_ratio": 1e-3}, 2.5, 65, tokens) == (
        "loss 0.1235  grad 1.2e+01  upd 1e-03  5.1k tok/s  1:05 left"
    )
    longest = describe({"loss": 1.2346e-05, "gradient_norm": 1e-12, "update_ratio": 1e-3}, 4999, 36000, tokens, True)
    assert longest == "loss 1.235e-05 grad 1e-12 upd 1e-03 10.2M tok/s 10:00:00 left"


def test_a_live_line_of_sixty_columns_keeps_its_name(monkeypatch, capsys):
    monkeypatch.setattr(rich, "_console", Console(force_terminal=True, width=60, no_color=True))
    shown = LiveProgress("waves", 0, 400)
    monkeypatch.setattr(shown._rate, "after", lambda step: (1234.5, 65.0))
    shown.amount = Amount(64, "examples")
    shown.show([row | {"update_ratio": 1e-3} for row in records([99])])
    shown.close()
    assert "waves 100/400 loss 0.01 grad 5e-01 79.0k ex/s 1:05 left" in capsys.readouterr().out


@pytest.mark.parametrize("width, bar", [(80, False), (200, True)])
def test_live_line_fits(monkeypatch, capsys, width, bar):
    monkeypatch.setattr(rich, "_console", Console(force_terminal=True, width=width, no_color=True))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = make_progress("digits-convnet", 0, 1000)
    assert isinstance(shown, LiveProgress)
    monkeypatch.setattr(shown._rate, "after", lambda step: (1234.5, 65.0))
    shown.amount = Amount(64, "examples")
    shown.show(records(range(998)))
    shown.say("a line above")
    shown.close()
    printed = capsys.readouterr().out
    assert "a line above" in printed
    summary = (
        "loss 0.001002  grad 5.0e-01  79.0k ex/s  1:05 left" if bar else "loss 0.001002 grad 5e-01 79.0k ex/s 1:05 left"
    )
    assert f"digits-convnet {'━' * 19 + '╸ ' if bar else ''} 998/1000 {summary}" in printed
    assert ("━" in printed) == bar


def test_progress_fits_where_it_is_shown(monkeypatch):
    assert type(make_progress("a", 0, 1, shown=False)) is SilentProgress
    monkeypatch.setattr(rich, "_console", Console(force_terminal=False))
    assert type(make_progress("a", 0, 1)) is PlainProgress
    assert progress_line.clock_time(59.6) == "1:00"
