"""The course of a loss, in words."""

import math

import numpy as np
import pytest

from fnbackprop.balancing.progress import progress_in_words

NOISE = 0.1 * np.random.default_rng(0).normal(size=1000)
STEPS = np.arange(1000)


@pytest.mark.parametrize(
    "losses, word",
    [
        (1 + NOISE, "converged"),
        (np.full(1000, 0.25), "converged"),
        (2 - STEPS / 1000 + NOISE, "still falling"),
        (np.exp(-STEPS / 300), "still falling"),
        (1 + STEPS / 500 + NOISE, "diverging"),
        ([1.0, 2.0, math.nan], "diverged"),
        ([1.0, 0.9], ""),
        ([], ""),
    ],
)
def test_words(losses, word):
    found = progress_in_words(list(losses))
    assert found.split(":")[0] == word


def test_noise_alone_is_converged():
    """In most of many noisy runs without a trend."""
    random = np.random.default_rng(1)
    found = [progress_in_words(list(1 + 0.1 * random.normal(size=500))) for _ in range(100)]
    assert sum(words.startswith("converged") for words in found) >= 85
