"""What `fnbackprop balance` prints and writes."""

import dataclasses
import json
import math
import shlex

import numpy as np
import pytest

from fnbackprop.balancing.branches import RangeTest
from fnbackprop.balancing.command import BalanceOptions, recommended_command, show
from fnbackprop.balancing.result import Balance
from fnbackprop.balancing.show.text import evidence
from fnbackprop.commands import arguments_of
from fnbackprop.writing import WriteError

from .test_verdict import CASES


@dataclasses.dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1
    steps: int = 7


def balance(name):
    return Balance(dataclasses.replace(CASES[name][0], rate=0.1))


def test_it_prints_the_verdict_first_and_writes_the_page(tmp_path, capsys):
    options = BalanceOptions(directory=tmp_path / "runs", json=tmp_path / "new" / "found.json")
    show(balance("too low"), options, Config(), arguments_of)
    printed = capsys.readouterr().out
    assert printed.startswith("TOO LOW  made up, at initialisation")
    assert "a learning rate of 0.4 instead of 0.1 (0.28 to 0.57)" in printed
    assert json.loads(options.json.read_text())["suggestion"]["multiplier"]["value"] == 4
    page = (tmp_path / "runs/made up.balance.html").read_text()
    assert '<h1 class="warn">TOO LOW</h1>' in page and page.count("<polyline") == 5


def test_each_step_of_a_run_has_a_page_of_its_own(tmp_path, capsys):
    later = Balance(dataclasses.replace(CASES["too low"][0], step=20))
    for found in (later, balance("too low")):
        show(found, BalanceOptions(directory=tmp_path), Config(), arguments_of)
    assert {page.name for page in tmp_path.iterdir()} == {"made up.step-20.balance.html", "made up.balance.html"}


def recommended(case, config, **options):
    return recommended_command(balance(case), BalanceOptions(**options), config, arguments_of)


def test_apply_prints_the_command():
    made = recommended("too low", Config(steps=9))
    assert made.startswith("fnbackprop train ") and made.endswith("test_command.py --learning-rate 0.4 --steps 9")
    assert recommended("balanced", Config()).endswith("test_command.py")
    assert "multiply it by 4" in recommended("too low", None)
    assert "No learning rate is suggested: there is nothing to go by" in recommended(
        "a gradient that is wrong", Config()
    )


def test_apply_keeps_the_name_and_the_mesh_of_the_run():
    words = shlex.split(recommended("too low", Config(), name="wide net", mesh="data=2", at=(3,), check=False))
    assert words[4:] == ["0.4", "--name", "wide net", "--mesh", "data=2"]


@pytest.mark.parametrize("name", CASES)
def test_every_verdict_can_be_shown(name):
    found = balance(name)
    assert str(found).startswith(found.verdict) and found.verdict in found.html()
    assert json.loads(found.to_json())["ok"] == found.ok


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    for option in ("json", "html"):
        with pytest.raises(WriteError, match="there.html cannot be written: its folder is a file"):
            options = BalanceOptions(directory=tmp_path, **{option: tmp_path / "file/there.html"})
            show(balance("too low"), options, Config(), arguments_of)


@pytest.mark.parametrize("ends, value, note", [
    ([math.inf, math.inf, 0.77], "0.77", "times the rate, in 1 of 3 orders; 2 did not diverge, up to 30 times"),
    ([2.0, 1.5], "1.5, 2", "times the rate, in 2 of 2 orders"),
    ([math.inf] * 3, "none", "the loss did not rise for good, up to 30 times the rate, in 3 orders of the batches"),
])  # fmt: skip
def test_where_the_range_test_diverges_is_said_in_words(ends, value, note):
    factors = np.array([0.1, 1.0, 30.0])
    test = RangeTest(factors, np.ones((len(ends), 3)), np.array(ends))
    facts = dataclasses.replace(CASES["too low"][0], range_test=test)
    assert ("range test diverges at", value, note) in evidence(facts)
