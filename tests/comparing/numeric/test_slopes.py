"""What a function is at a point, seen from its values on both sides."""

import numpy as np
import pytest

from fnbackprop.comparing.numeric.slopes import Slopes, best_step, shape_of
from fnbackprop.comparing.results import Verdict

LENGTHS = 1e-5 * 2.0 ** -np.arange(6)


def sampled(function, at=0.0):
    with np.errstate(invalid="ignore"):
        values = [function(np.float64(at) + sign * LENGTHS) for sign in (1, -1)]
        return Slopes(LENGTHS, function(np.float64(at)), *values, 1e-16 * np.max(np.abs(values[0])))


@pytest.mark.parametrize(
    "function, at, verdict",
    [
        (np.sin, 0.3, Verdict.PASS),
        (np.square, 0.0, Verdict.PASS),
        (lambda x: 0 * x + 5, 0.0, Verdict.PASS),
        (np.abs, 0.0, Verdict.KINK),
        (lambda x: np.maximum(x, 0) + 3 * x**2, 0.0, Verdict.KINK),
        (np.abs, 1.0, Verdict.PASS),
        (lambda x: np.where(x > 0, 1.0, 0.0), 0.0, Verdict.JUMP),
        (np.cbrt, 0.0, Verdict.UNBOUNDED),
        (lambda x: np.sqrt(np.abs(x)), 0.0, Verdict.UNBOUNDED),
        (np.sqrt, 0.0, Verdict.DOMAIN_EDGE),
        (np.log, -1.0, Verdict.NON_FINITE),
    ],
    ids="sin square constant abs relu abs-beside jump cbrt sqrt-abs sqrt log".split(),
)
def test_shape_of(function, at, verdict):
    found, reason = shape_of(sampled(function, at), 1e-9)
    assert found is verdict and bool(reason) == (verdict is not Verdict.PASS)


def test_a_small_kink_does_not_matter():
    assert shape_of(sampled(lambda x: 1e-6 * np.abs(x) + x), 1e-3)[0] is Verdict.PASS


def test_best_step_takes_the_flat_part():
    truth, lengths = np.array([[1.0], [2.0]]), 2.0 ** -np.arange(-1, 5)
    smooth = truth + lengths**2  # error 4 at the widest step
    chosen, allowed = best_step(smooth, lengths, 1e-9)
    assert chosen == len(lengths) - 2 and np.max(np.abs(smooth[:, chosen] - truth[:, 0])) < allowed < 1
    chosen, _ = best_step(smooth, lengths, 10.0)
    assert chosen <= 2
