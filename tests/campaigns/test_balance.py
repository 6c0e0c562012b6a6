"""The campaign of balance: its cases, and a part of it that is short."""

from fnbackprop.balancing.verdict import Verdict

from .balance import command
from .balance.labelled import CASES, OF_VERDICT


def test_there_are_enough_cases():
    assert len(CASES) >= 30 and len({case.name for case in CASES}) == len(CASES)
    assert set(Verdict) - set(OF_VERDICT) == {Verdict.UNDECIDED, Verdict.CANNOT_JUDGE}


def test_the_noise_part(capsys):
    assert command.main(["noise"]) == 0
    assert capsys.readouterr().out.count("in the interval") == 3
