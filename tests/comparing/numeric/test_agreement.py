"""With which of two gradients the differences along some directions agree."""

import numpy as np
import pytest

from fnbackprop.comparing.numeric.agreement import agreement
from fnbackprop.comparing.results import Sides, Verdict


@pytest.mark.parametrize(
    "manual, automatic, allowed, verdict",
    [
        (0.01, 0.01, 0.05, Verdict.PASS),
        (0.14, 0.14, 0.05, Verdict.FAIL),
        (0.1, 0.1, 0.13, Verdict.NOISE_LIMITED),
        (0.14, 0.14, 0.13, Verdict.NOISE_LIMITED),  # what is allowed is a guess where it is so large
        (0.6, 0.6, 0.13, Verdict.FAIL),
        (0.14, 0.1, 0.13, Verdict.FAIL),  # unless it tells the two gradients apart
        (0.01, 0.01, np.nan, Verdict.NON_FINITE),
        (np.inf, np.inf, 0.01, Verdict.FAIL),
    ],
)
def test_agreement(manual, automatic, allowed, verdict):
    assert agreement(manual, automatic, allowed, Sides())[0] is verdict
