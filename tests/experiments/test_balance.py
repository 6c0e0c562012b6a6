"""The three rates are what they are named for, before training and after."""

import pytest

from fnbackprop.training.balancing import subject_of

from .loading import expected_last_line, load_module, words


@pytest.fixture(scope="module")
def balance():
    return load_module("balance")


def test_a_short_run(balance, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    balance.show(balance.Config(steps=40))
    last = capsys.readouterr().out.splitlines()[-1]
    assert words(last) == words(expected_last_line(balance))
    found = {verdict: float(loss) for loss, verdict in (part.split(maxsplit=1) for part in last[5:].split(", "))}
    assert found["BALANCED"] < found["TOO LOW"] < found["TOO HIGH: diverging"]
    assert (tmp_path / "runs/balance.svg").exists()


def test_the_command_line_changes_the_rate(balance):
    assert subject_of(balance.experiment(balance.Config(learning_rate=3.0))).rate == 3.0
