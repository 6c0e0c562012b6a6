"""One run of a script: its places are compared within the time that there is, and the table is written at the end."""

import io
import sys

import pytest

from fnbackprop.comparing.results import Verdict
from fnbackprop.running import measuring, session
from fnbackprop.running.places import Place


@pytest.fixture
def make(monkeypatch):
    """A session of two places; nothing is put in the place of `jax.vjp`."""
    monkeypatch.setattr(session, "substitute_everywhere", lambda key, vjp: None)

    def made(compare):
        found = session.Session(compare, {})
        found.places.found = {line: Place(line, calls=1) for line in ("a.py:1", "b.py:2")}
        return found

    return made


def test_each_place_gets_its_share_of_the_time(make, monkeypatch, capsys):
    shares = []

    def measure(place, seconds, options):
        print("the user's function prints")
        shares.append(seconds)
        return measuring.not_compared("for a reason")

    monkeypatch.setattr(measuring, "measure", measure)
    make(compare=True).end(interrupted=False)
    half, whole = shares
    assert 0 < whole <= session.COMPARING and half == pytest.approx(whole / 2, rel=0.01)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fnbackprop run: ") and "a.py:1" in err and "for a reason" in err


def test_who_interrupts_the_comparison_gets_the_table(make, monkeypatch):
    def measure(place, seconds, options):
        if place.line == "b.py:2":
            raise KeyboardInterrupt
        return measuring.not_compared("done")

    monkeypatch.setattr(measuring, "measure", measure)
    made = make(compare=True)
    found = made._measure(list(made.places.found.values()))
    assert [(m.verdict, m.reason) for m in found.values()] == [
        (Verdict.SKIPPED, "done"),
        (Verdict.SKIPPED, "interrupted"),
    ]


@pytest.mark.parametrize("compare, interrupted", [(False, False), (True, True)])
def test_nothing_is_compared_unasked(make, monkeypatch, capsys, compare, interrupted):
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("measured"))
    make(compare).end(interrupted)
    assert "b.py:2" in capsys.readouterr().err


def test_a_closed_standard_error(make, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    make(False).end(False)  # the script's own end counts
