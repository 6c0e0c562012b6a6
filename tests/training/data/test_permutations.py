"""Every permutation is one, every order is equally likely, and none ever changes."""

import collections

import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.data import permutations
from fnbackprop.training.data.permutations import epochs, mix, permute


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1397])
def test_it_is_a_permutation(size):
    for counters in ((0, 0), (0, 1), (9, 4)):
        assert sorted(permute(np.arange(size), size, *counters)) == list(range(size))


def test_a_part_is_a_part_of_the_whole():
    whole = permute(np.arange(1000), 1000, 3, 1)
    np.testing.assert_array_equal(permute(np.arange(990, 1000)[::-1], 1000, 3, 1), whole[990:][::-1])
    assert len(set(permute(np.arange(500), 10**15, 3, 1))) == 500


def test_every_order_of_four_is_equally_likely():
    """24 orders in 4800 epochs, 200 each: chi squared has 23 degrees of freedom, and 57.1 is its quantile 0.9999."""
    counts = collections.Counter(tuple(permute(np.arange(4), 4, 1, epoch)) for epoch in range(4800))
    assert len(counts) == 24 and sum((count - 200) ** 2 / 200 for count in counts.values()) < 57.1


@pytest.mark.parametrize("size, limit", [(5, 45.9), (33, 1200.9)])
def test_every_element_comes_to_every_place_equally_often(size, limit):
    """chi squared with (size - 1)**2 degrees of freedom, below its quantile 0.9999 (that of 16 and 1024)."""
    orders = np.stack([permute(np.arange(size), size, 2, epoch) for epoch in range(2000)])
    counts = np.stack([(orders == element).sum(axis=0) for element in range(size)])
    expected = 2000 / size
    assert np.sum((counts - expected) ** 2) / expected * (size - 1) / size < limit


def test_the_orders_never_change():
    """A run must be resumed in the order in which it began, by whatever version."""
    assert mix(0, 0) == 12035550249420947055
    assert permute(np.arange(10), 10, 0, 0).tolist() == [7, 9, 2, 5, 8, 4, 0, 6, 1, 3]
    assert permute(np.arange(3), 10**12, 5, 7).tolist() == [274941944655, 239237442947, 777769433641]


def test_epochs(monkeypatch):
    chosen = epochs(10, 3, seed=1)
    first, second = (np.concatenate([chosen(step) for step in steps]) for steps in ((0, 1, 2), (3, 4, 5)))
    assert len(set(first)) == len(set(second)) == 9 and first.tolist() != second.tolist()
    assert first.tolist() != np.concatenate([epochs(10, 3, seed=2)(step) for step in range(3)]).tolist()
    monkeypatch.setattr(permutations, "KEPT_WHOLE", 0)
    np.testing.assert_array_equal(np.concatenate([chosen(step) for step in range(3)]), first)


@pytest.mark.parametrize("batch_size", [0, 11])
def test_a_batch_must_fit(batch_size):
    with pytest.raises(ExperimentError, match=f"batch_size must be from 1 to 10, .*, not {batch_size}"):
        epochs(10, batch_size, seed=0)
