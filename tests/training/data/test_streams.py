"""An iterator as a function of the step: forwards, backwards, and from a state."""

import json

import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training import data


class Counting:
    """An iterator with Grain's interface; `how` is the form of its state."""

    drawn = 0

    def __init__(self, how=dict, length=100):
        self.how, self.length, self.place = how, length, 0

    def __iter__(self):
        return Counting(self.how, self.length)

    def __next__(self):
        if self.place == self.length:
            raise StopIteration
        Counting.drawn += 1
        self.place += 1
        return np.array([self.place - 1])

    def get_state(self):
        return {"place": self.place} if self.how is dict else str(self.place).encode()

    def set_state(self, state):
        self.place = state["place"] if self.how is dict else int(state)


def test_any_step_in_any_order():
    batch = data.from_iterator(lambda: (np.array([2 * i]) for i in range(50)))
    assert [batch(step)[0] for step in (0, 1, 2, 7, 7, 30, 3, 49, 0)] == [0, 2, 4, 14, 14, 60, 6, 98, 0]


def test_the_last_few_cost_nothing():
    Counting.drawn = 0
    batch = data.from_grain(Counting())
    assert [batch(step)[0] for step in (9, 2, 9, 5)] == [9, 2, 9, 5]
    assert Counting.drawn == 10


@pytest.mark.parametrize("how", [dict, bytes])
def test_a_state_saves_the_drawing(how):
    batch = data.from_grain(Counting(how))
    batch(80)
    states = {step: json.loads(json.dumps(batch.state(step))) for step in (75, 80, 81)}
    for step, state in states.items():
        other = data.from_grain(Counting(how))
        Counting.drawn = 0
        other.restore(step, state)
        assert other(step)[0] == step and Counting.drawn == 1
    assert batch.state(3) is None  # too long ago


def test_a_batch_that_was_drawn_can_be_had_again_without_drawing_all():
    """As when its loss, which is looked at some steps later, is NaN."""
    batch = data.from_iterator(lambda: Counting())
    batch(99)
    Counting.drawn = 0
    assert batch.again(95)[0] == 95 and Counting.drawn == 0  # it is kept
    del batch._kept[70]
    assert batch.again(70)[0] == 70 and Counting.drawn == 1  # by the state of then
    large = data.from_iterator(lambda: (np.full(1 << 20, i) for i in range(50)))
    large(49)
    assert len(large._kept) == 32  # of 8 MB each
    with pytest.raises(ExperimentError, match=r"batch\(3\) of the iterator was drawn too long ago"):
        large.again(3)


def test_without_a_state_a_stream_draws_from_the_beginning():
    batch = data.from_iterator(lambda: iter(range(50)))
    assert batch(4) == 4 and batch.state(5) is None
    batch.restore(10, None)
    assert batch(10) == 10


def test_grains_own_classes():
    grain = pytest.importorskip("grain")
    dataset = grain.MapDataset.range(30).shuffle(seed=3)
    batch = data.from_grain(dataset.repeat().batch(10))
    assert sorted(np.concatenate([batch(step) for step in range(3, 6)])) == list(range(30))
    assert batch(3).tolist() != batch(0).tolist()
    stream = data.from_grain(dataset.to_iter_dataset().batch(10))
    other = data.from_grain(dataset.to_iter_dataset().batch(10))
    stream(1)
    other.restore(2, json.loads(json.dumps(stream.state(2))))
    np.testing.assert_array_equal(other(2), stream(2))


def test_mistakes_are_named():
    with pytest.raises(ExperimentError, match="takes a function that makes the iterator"):
        data.from_iterator(iter([1]))
    with pytest.raises(ExperimentError, match=r"the data end after 3 batches, but batch\(5\) was asked for"):
        data.from_grain(Counting(length=3))(5)
    with pytest.raises(ExperimentError, match=r"end after 2 batches.*dataset.repeat\(\) makes it endless"):
        data.from_grain([0, 1])(2)
    with pytest.raises(ExperimentError, match="takes a MapDataset, an IterDataset or a DataLoader, not 3"):
        data.from_grain(3)


def test_what_has_to_be_skipped_is_counted():
    stream = data.from_iterator(lambda: iter(range(9)))
    assert stream.to_skip(4) == 4
    stream(2)
    assert stream.to_skip(4) == 1 and stream.to_skip(1) == 0
