"""What a comparison gives besides its fields: JSON, an error, text."""

import json
import math

import pytest

from fnbackprop.comparing.comparison import Comparison, GradientMismatch
from fnbackprop.comparing.results import Agreement, Cotangent, EquationComparison, LeafComparison, Verdict

EQUATION = EquationComparison(
    "sin", "sin_vjp", "model.py:1:2 (f)", "", 0, Cotangent.ACTUAL, Verdict.FAIL, numeric=Agreement.AUTOMATIC
)
RIGHT = LeafComparison("b", (6,), "float32", Verdict.PASS, error=1e-7)
WRONG = LeafComparison("w", (6, 6), "float32", Verdict.FAIL, error=math.nan)
PASSED = Comparison("loss", RIGHT, (RIGHT,), None, (), "", 5)
FAILED = Comparison("loss", RIGHT, (RIGHT, WRONG), None, (), "", 5, equations=(EQUATION,), audited=3)


def test_json_holds_everything():
    read = json.loads(FAILED.to_json())
    assert (read["verdict"], read["ok"], read["seed"], read["sides"]) == ("FAIL", False, 5, ["manual", "automatic"])
    assert [leaf["verdict"] for leaf in read["leaves"]] == ["PASS", "FAIL"]
    assert read["leaves"][1]["error"] is None and read["leaves"][0]["shape"] == [6]
    (equation,) = read["equations"]
    assert (equation["cotangent"], equation["numeric"], equation["kind"]) == ("actual", "automatic", "rule")


def test_require_carries_the_comparison():
    with pytest.raises(GradientMismatch) as raised:
        FAILED.require()
    assert raised.value.comparison is FAILED and str(raised.value) == str(FAILED)
    assert PASSED.require() is PASSED
