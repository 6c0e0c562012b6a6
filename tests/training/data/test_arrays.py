"""Arrays in shuffled epochs."""

import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training import data


def test_an_epoch_shows_each_example_once_with_its_own_label():
    arrays = {"x": np.arange(20).reshape(10, 2), "y": 10 * np.arange(10)}
    batch = data.shuffled(arrays, batch_size=5, seed=3)
    for epoch in range(3):
        x, y = (np.concatenate([batch(2 * epoch + i)[name] for i in (0, 1)]) for name in "xy")
        assert sorted(y) == list(arrays["y"])
        np.testing.assert_array_equal(x[:, 0] * 5, y)
    np.testing.assert_array_equal(batch(4)["y"], data.shuffled(arrays, batch_size=5, seed=3)(4)["y"])


def test_batches_have_one_shape_and_may_come_from_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(7.0))
    batch = data.shuffled(np.load(tmp_path / "x.npy", mmap_mode="r"), batch_size=3)
    assert all(batch(step).shape == (3,) for step in range(6))


@pytest.mark.parametrize("arrays", [{}, np.float32(1), {"x": np.zeros(3), "y": np.zeros(4)}])
def test_arrays_must_share_their_first_axis(arrays):
    with pytest.raises(ExperimentError, match="arrays must share their first axis"):
        data.shuffled(arrays, batch_size=1)
