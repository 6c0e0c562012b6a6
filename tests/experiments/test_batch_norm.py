"""A short run recognises digits by its running statistics, and far fewer by those of before."""

import numpy as np
import pytest

from .loading import load_module, promised_numbers


@pytest.fixture(scope="module")
def batch_norm():
    return load_module("batch_norm")


def test_a_short_run(batch_norm, in_memory, capsys):
    batch_norm.train_and_test(batch_norm.Config(channels=8, steps=30))
    by_running, by_initial = promised_numbers(batch_norm, capsys.readouterr().out)
    assert by_running > max(0.7, by_initial)


def test_the_running_mean_moves_by_the_momentum(batch_norm):
    made = batch_norm.experiment(batch_norm.Config(channels=2, batch_size=8, momentum=0.75))
    arguments = made.arguments()
    state = made.outcome(*arguments[:1], *arguments[2:], arguments[1]).model_state
    images, kernel = arguments[2]["images"], arguments[0]["convs"][0]["kernel"][...]
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))  # as SAME does for strides of two
    seen = [padded[:, i : i + 3, j : j + 3, 0] for i in range(0, 8, 2) for j in range(0, 8, 2)]
    means = np.einsum("pbij,ijc->c", np.stack(seen), kernel[:, :, 0]) / (len(seen) * len(images))
    np.testing.assert_allclose(state["norms"][0]["mean"][...], means / 4, rtol=1e-4)
