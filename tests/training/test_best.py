"""One rule says whether the highest or the lowest value of a metric is the best."""

import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.best import best_mode_of


@pytest.mark.parametrize("name", ["loss", "test_loss", "eval/Perplexity", "error_rate", "word-error", "kl_divergence"])
def test_the_lowest_of_a_loss(name):
    assert best_mode_of(name) == "min" and best_mode_of(name, "max") == "max"


@pytest.mark.parametrize("name", ["accuracy", "test_accuracy", "f1", "top5/accuracy", "bleu_score"])
def test_the_highest_of_an_accuracy(name):
    assert best_mode_of(name) == "max" and best_mode_of(name, "min") == "min"


@pytest.mark.parametrize("name", ["size", "lossless", "accuracy_error"])
def test_a_name_that_does_not_tell(name):
    with pytest.raises(ExperimentError, match=f"the name {name!r} does not tell .*--best-mode"):
        best_mode_of(name)


def test_a_mode_that_is_none():
    with pytest.raises(ExperimentError, match='best_mode must be "max" or "min", not \'highest\''):
        best_mode_of("loss", "highest")
