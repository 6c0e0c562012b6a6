"""The distance is that of the normal distributions, and a short run comes nearer to the digits."""

import numpy as np
import pytest

from .loading import load_module, promised_numbers


@pytest.fixture(scope="module")
def gan():
    return load_module("gan")


def test_the_distance_of_two_normal_distributions(gan):
    rows = np.random.default_rng(0).normal(size=(4000, 3))
    assert abs(gan.frechet_distance(rows, rows)) < 1e-9
    assert abs(gan.frechet_distance(rows, 2 * rows + 1) - 6.0) < 0.3  # |1|² + 3 (2 - 1)²


def test_a_short_run(gan, in_memory, capsys):
    gan.train_and_measure(gan.Config(width=32, steps=40, generator_rate=2e-3, critic_rate=4e-3))
    before, after = promised_numbers(gan, capsys.readouterr().out)
    assert before > 40 and after < 30


def test_generated_images_are_like_the_digits_in_brightness(gan):
    made = gan.experiment(gan.Config(width=32))
    pixels = made.evaluate(made.arguments()[0])["generated"].pixels
    assert pixels.shape == (64, 8, 8, 1) and 0 <= pixels.min() < pixels.max() <= 1
