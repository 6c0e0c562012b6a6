"""What a difference of two cotangents is; a failure's error is always above what it says is allowed."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fnbackprop.comparing.equations.check import COMPILED, CotangentPair
from fnbackprop.comparing.equations.verdict import Finding, difference_of

FLOOR = 4.8e-7
RIGHT = np.random.default_rng(0).normal(size=50)


def difference(low, high):
    """Of a pair in float32 that differs by `low`, relatively, and in float64 by `high`."""
    pair = CotangentPair(np.float32(RIGHT * (1 + low)), np.float32(RIGHT), np.ones(4))
    evidence = SimpleNamespace(pairs=[pair], check=SimpleNamespace(primal=False, users_mode=False))
    return difference_of(evidence, 0, ([RIGHT * (1 + high)], [RIGHT]), FLOOR)


@pytest.mark.parametrize("low, high, finding", [
    (6e-7, 3.5e-7, Finding.ROUNDING),  # an approximation as good as the program's precision
    (6e-7, 0.0, Finding.ROUNDING),
    (1e-3, 1e-3, Finding.DIFFERS),
    (1e-6, 9e-7, Finding.DIFFERS),
    (1e-3, 0.0, Finding.IMPRECISE),
])  # fmt: skip
def test_what_a_difference_is(low, high, finding):
    found = difference(low, high)
    assert found.finding is finding
    error = np.linalg.norm(found.ours - found.theirs) / np.linalg.norm(found.theirs)
    assert finding is Finding.ROUNDING or error > found.allowed


def test_noise_in_float64_is_the_largest_of_eight_samples(monkeypatch):
    """As of the derivative of a gamma sample: a last bit of its operand moves it by nothing, or by 20 last bits."""
    moves = iter([0.0, 1e-16, 3e-16, 0.0, 2e-15, 1e-16, 0.0, 0.0])

    def shaken(check, operands, cotangents):
        return [CotangentPair(RIGHT, RIGHT * (1 + next(moves)), np.ones(4))]

    monkeypatch.setattr(COMPILED, "both", shaken)
    check = SimpleNamespace(primal=False, users_mode=True, equation=jax.make_jaxpr(jax.lax.sin)(1.0).eqns[0])
    pair = CotangentPair(RIGHT * (1 + 6e-15), RIGHT, np.ones(4))
    evidence = SimpleNamespace(pairs=[pair], check=check, operands=[RIGHT], cotangents=[RIGHT])
    found = difference_of(evidence, 0, ([RIGHT], [RIGHT]), 8.9e-16)
    assert found.finding is Finding.ROUNDING and 7e-15 < found.allowed < 9e-15
