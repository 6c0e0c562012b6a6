"""The campaign of balance: its cases, a part of it that is short, and what it makes of results."""

import numpy as np

from fnbackprop.balancing.verdict import Verdict

from .balance import command
from .balance.labelled import CASES, OF_VERDICT, STEPS, Case, label, label_by_fall
from .balance.results import Finding, Measurement, Row, measured


def test_there_are_enough_cases():
    assert len(CASES) >= 30 and len({case.name for case in CASES}) == len(CASES)
    assert set(Verdict) - set(OF_VERDICT) == {Verdict.UNDECIDED, Verdict.CANNOT_JUDGE}


def test_labels():
    """A run that is ten times as slow as the best is too low, though it ends at a part of the first loss."""
    steps = np.arange(STEPS)
    rates = {0.01: 0.002, 0.1: 0.02, 0.3: 0.03, 1.0: 0.06}  # by which the loss falls in a step
    runs = {rate: 2.3 * np.exp(-slope * steps) for rate, slope in rates.items()} | {10.0: np.full(STEPS, 5.0)}
    found = {rate: label(Case("mlp", "sgd", rate), runs) for rate in runs}
    assert found == {0.01: "too low", 0.1: "too low", 0.3: "balanced", 1.0: "balanced", 10.0: "too high"}
    assert label_by_fall(Case("mlp", "sgd", 0.1), runs) == "balanced"


def test_every_part_has_measurements():
    names = [(one.part, one.name) for one in command.all_measurements()]
    assert {part for part, _ in names} == set(command.PARTS) and len(set(names)) == len(names)


def test_the_noise_part(capsys):
    assert command.main(["noise"]) == 0
    out = capsys.readouterr().out
    assert out.count("noise scale 250") == 2 and "noise: 3 of 3 are good" in out  # as it was measured; in the table


def test_what_is_written_is_not_measured_again(tmp_path):
    file, ran = tmp_path / "found.jsonl", []

    def measurement(name, good):
        return Measurement("noise", name, lambda: ran.append(name) or Finding("1", "2", np.bool_(good)))

    first = measured([measurement("one", True)], file)
    both = measured([measurement("one", True), measurement("two", False)], file)
    assert ran == ["one", "two"] and both[:1] == first and [row.finding.good for row in both] == [True, False]


def test_one_verdict_in_fifteen_may_be_wrong_and_none_unsafe():
    def rows(wrong, unsafe=0):
        findings = [Finding("", "", i >= wrong, i < unsafe) for i in range(30)]
        return [Row("verdicts", str(i), finding, 0.0) for i, finding in enumerate(findings)]

    assert command.is_good(rows(2)) and not command.is_good(rows(3)) and not command.is_good(rows(0, unsafe=1))
    assert not command.is_good([*rows(0), Row("edge", "Adam", Finding("", "", False), 0.0)])
