"""`fnbackprop run`: mistakes are answered here, and what is right becomes a program of its own."""

import sys

import pytest

from fnbackprop.running import main_module, start


@pytest.fixture
def started(monkeypatch):
    """The commands that would have been started."""
    commands = []
    monkeypatch.setattr(start.os, "execv", lambda path, command: commands.append((path, command)))
    monkeypatch.setattr(start.subprocess, "call", lambda command: commands.append(command) or 7)
    return commands


def test_the_program_takes_the_place_of_this_one(started, monkeypatch):
    monkeypatch.setattr(start.os, "name", "posix")
    start.run_script(["--compare", "script.py", "--its-own"])
    command = [sys.executable, main_module.__file__, "--compare", "script.py", "--its-own"]
    assert started[0] == (sys.executable, command)


def test_where_a_program_cannot_be_replaced_its_status_is_returned(started, monkeypatch):
    monkeypatch.setattr(start.os, "name", "nt")
    assert start.run_script(["-m", "module"]) == 7
    assert started == [[sys.executable, main_module.__file__, "-m", "module"]]


@pytest.mark.parametrize("argv, status", [(["--help"], 0), ([], 2), (["--budget", "much", "script.py"], 2)])
def test_help_and_mistakes_start_nothing(started, capsys, argv, status):
    with pytest.raises(SystemExit) as ended:
        start.run_script(argv)
    assert (ended.value.code, started) == (status, [])
    assert "usage: fnbackprop run" in "".join(capsys.readouterr())
