"""The progress line is on the terminal; elsewhere it is a line now and then."""

import pytest

from fnbackprop.comparing.show.status_line import StatusLine


@pytest.mark.parametrize("wanted, lines", [(None, 2), (False, 0)])
def test_without_a_terminal_a_line_is_said_every_half_minute(capsys, monkeypatch, wanted, lines):
    clock = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with StatusLine(wanted, "balancing") as say:
        for text in ("one", "two", "three", "four"):
            say(text)
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == lines
    assert wanted is False or said.err.startswith("balancing, 31 s: two\nbalancing, 62 s: four")


def test_what_is_being_done_is_said(monkeypatch):
    import rich.console

    said = []
    monkeypatch.setattr("rich.status.Status.update", lambda self, text: said.append(text))
    with StatusLine(True) as say:
        say("the manual gradient")
    assert len(said) == 1 and said[0].startswith("comparing, 0 s: the manual gradient")
    assert rich.console
