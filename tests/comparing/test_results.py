"""The verdict of a whole comparison."""

import dataclasses

import pytest

from fnbackprop.comparing.results import LeafComparison, NumericComparison, Results, Verdict


def leaf(path, verdict=Verdict.PASS):
    return LeafComparison(path, (3,), "float32", verdict)


def comparison(leaves):
    numeric = NumericComparison(Verdict.PASS, "", 4, 1e-4, 1e-4, 1e-3)
    return Results("loss", leaf("(value)"), tuple(leaves), numeric, (), "", 3)


@pytest.mark.parametrize(
    "verdicts, numeric, problems, expected",
    [
        ([Verdict.PASS, Verdict.SKIPPED], Verdict.PASS, (), Verdict.PASS),
        ([Verdict.PASS, Verdict.NOISE_LIMITED], Verdict.PASS, (), Verdict.NOISE_LIMITED),
        ([Verdict.NOISE_LIMITED, Verdict.NON_FINITE], Verdict.PASS, (), Verdict.NON_FINITE),
        ([Verdict.NON_FINITE, Verdict.FAIL], Verdict.PASS, (), Verdict.FAIL),
        ([Verdict.PASS], Verdict.FAIL, (), Verdict.FAIL),
        ([Verdict.PASS], Verdict.NOISE_LIMITED, (), Verdict.PASS),
        ([], Verdict.PASS, ("structure",), Verdict.FAIL),
        ([Verdict.SKIPPED], Verdict.PASS, (), Verdict.SKIPPED),
    ],
)
def test_the_verdict_is_the_worst(verdicts, numeric, problems, expected):
    result = comparison([leaf(str(i), verdict=verdict) for i, verdict in enumerate(verdicts)])
    numeric_result = dataclasses.replace(result.numeric, verdict=numeric)
    result = dataclasses.replace(result, numeric=numeric_result, problems=problems)
    assert result.verdict is expected and result.ok == (expected is Verdict.PASS)
