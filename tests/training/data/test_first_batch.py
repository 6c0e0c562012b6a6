"""Data that are no function of the step, that have changed, or that are no arrays, are named before the first step."""

import math

import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training import data
from fnbackprop.training.data.first_batch import differences, fingerprint, first_batch, require_arrays
from fnbackprop.training.loop import train
from tests.training.test_loop import regression


def batch(step, size=8):
    random = np.random.default_rng(step)
    return {"x": random.normal(size=(size, 3)).astype(np.float32), "y": random.normal(size=size).astype(np.float32)}


def test_a_batch_that_is_no_function_of_the_step_is_named():
    random = np.random.default_rng(0)

    def impure(step):
        return batch(step) | {"y": random.normal(size=8).astype(np.float32)}

    with pytest.raises(
        ExperimentError, match=r"batch\(0\) is not a function .* gave two batches that differ in y\. Draw"
    ):
        train(regression(batch=impure), directory=None, progress=False)
    drawn = []
    stream = data.from_iterator(lambda: (drawn.append(i) or batch(i) for i in range(9)))
    found = first_batch(stream, 0)
    assert found.fingerprint["step"] is None and drawn == [0] and found.seconds == math.inf
    assert 0 < first_batch(lambda step: np.zeros(2), 0).seconds < math.inf


def test_what_has_changed_is_told():
    there = fingerprint(batch, 3)
    assert differences(there, fingerprint(batch, 3)) == {}
    assert differences(there, fingerprint(lambda step: batch(step, 16), 3)) == {
        "x": "float32[8,3] there, float32[16,3] now",
        "y": "float32[8] there, float32[16] now",
    }
    changed = fingerprint(lambda step: batch(step) | {"y": batch(step + 1)["y"]}, 3)
    assert differences(there, changed) == {"y": "float32[8] with other numbers than there"}
    stream = data.from_iterator(lambda: map(batch, range(9)))
    assert differences(there, fingerprint(stream, 3)) == {}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"x": [[1.0, 2.0], [3.0, 4.0]]}, r"batch\(3\): x is a list of 2 numbers, .* one array, np.array"),
        ({"x": np.ones(2), "name": "cat"}, r"batch\(3\): name is 'cat', a str: a batch holds arrays and numbers"),
        ([1, 2], r"batch\(3\) is a list of 2 numbers"),
    ],
)
def test_leaves_that_are_no_arrays(wrong, message):
    with pytest.raises(ExperimentError, match=message):
        require_arrays(wrong, 3)
    require_arrays(([np.ones(2), np.ones(3)], 0.5, True), 3)
