"""The digits are learned, from a data order that is a function of seed and step."""

import dataclasses
import pathlib
import re
import sys

import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.experiment_files import load
from fnbackprop.training.loop import train

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "digits.py"


@pytest.fixture(scope="module")
def digits():
    """The module of the experiment file."""
    return sys.modules[load(str(FILE)).__module__]


def test_training_and_test_images_do_not_overlap(digits):
    (images, labels), (test_images, test_labels) = digits.digits()
    assert images.shape == (1397, 8, 8, 1) and test_images.shape == (400, 8, 8, 1)
    assert images.dtype == np.float32 and 0 <= images.min() and images.max() == 1
    assert len(labels) == 1397 and set(test_labels) == set(range(10))
    seen = {image.tobytes() for image in images}
    assert not any(image.tobytes() in seen for image in test_images)


def test_an_epoch_shows_each_image_once_and_the_next_in_another_order(digits):
    batch = digits.experiment(digits.Config(batch_size=100)).batch
    first = np.concatenate([batch(step)["images"] for step in range(13)])
    second = np.concatenate([batch(step)["images"] for step in range(13, 26)])
    assert len({image.tobytes() for image in first}) == len(first) == 1300
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(
        batch(7)["labels"], digits.experiment(digits.Config(batch_size=100)).batch(7)["labels"]
    )
    other = digits.experiment(digits.Config(batch_size=100, seed=1)).batch
    assert not np.array_equal(batch(0)["labels"], other(0)["labels"])


@pytest.mark.parametrize("model, steps, accuracy", [("mlp", 500, 0.97), ("convnet", 100, 0.85)])
def test_accuracy(digits, model, steps, accuracy):
    experiment = digits.experiment(digits.Config(model=model, steps=steps))
    state = train(experiment, directory=None, progress=False)
    assert experiment.evaluate(state.params)["test_accuracy"] >= accuracy


def test_the_demonstration(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits.demonstrate(dataclasses.replace(digits.Config(), steps=30))
    printed = capsys.readouterr().out
    assert "PASS  loss: 6 leaves (float64)" in printed and "numeric PASS" in printed
    last = printed.splitlines()[-1]
    said = re.fullmatch(r"accuracy (\S+) by hand, (\S+) by jax.grad; mean distance of losses (\S+)", last)
    assert abs(float(said[1]) - float(said[2])) < 0.01 and float(said[3]) < 1e-4
    assert (tmp_path / "runs/digits-mlp/curves.svg").exists()
    assert "PASS, the manual gradient against" in (tmp_path / "runs/digits-mlp/report.html").read_text()


def test_missing_scikit_learn_is_told(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(fb.MissingExtra, match=r"pip install 'fnbackprop\[examples\]'"):
        digits.digits()
