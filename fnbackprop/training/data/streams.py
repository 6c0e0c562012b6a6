"""An iterator as `batch(step)`.

`batch(step)` is item number `step` of a fresh iterator. For the next step it draws one item; for a later one, as when a
run is resumed, it draws and drops those in between, unless the iterator can save and restore its state, as Grain's do
(`get_state`, `set_state`); for an earlier one it starts again. It is a pure function of the step as long as every fresh
iterator yields the same sequence.
"""

import base64
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from fnbackprop.experiment import ExperimentError

KEPT = 64  # batches, and states, that can be asked for again: a loss is looked at some steps after its batch was drawn
KEPT_BYTES = 1 << 28  # of batches; of larger ones, fewer are kept
KEPT_AT_LEAST = 8


def from_iterator(make: Callable[[], Iterator[Any]]) -> "Stream":
    """`batch(step)` from a function that makes the iterator, for example `lambda: iter(loader)`.

    Raises:
      ExperimentError: `make` is an iterator itself, which could not begin again.
    """
    if not callable(make):
        raise ExperimentError(
            f"from_iterator takes a function that makes the iterator, not {make!r}: a run that is resumed must begin "
            "again. Write from_iterator(lambda: iter(loader))."
        )
    return Stream(make)


def from_grain(dataset: Any) -> Callable[[int], Any]:
    """`batch(step)` from Grain: a `MapDataset` of batches, an `IterDataset`, or a `DataLoader`.

    A `MapDataset` is a function of the index already, and needs neither drawing nor state: it is the best choice for
    exact resuming. `dataset.repeat()` makes it endless; if it was shuffled before, each epoch has another order.

    Raises:
      ExperimentError: it is none of them.
    """
    if hasattr(dataset, "__getitem__"):
        return lambda step: _existing(dataset, step)
    if hasattr(dataset, "__iter__"):
        return Stream(lambda: iter(dataset))
    raise ExperimentError(f"from_grain takes a MapDataset, an IterDataset or a DataLoader, not {dataset!r}.")


def _existing(dataset: Any, step: int) -> Any:
    if step >= len(dataset):
        raise ExperimentError(_ended(len(dataset), step) + " dataset.repeat() makes it endless.")
    return dataset[step]


def _ended(length: int, step: int) -> str:
    return f"the data end after {length} batches, but batch({step}) was asked for: take fewer steps, or repeat them."


class Stream:
    """`batch(step)` from an iterator; see the head of this module. It may be called from any thread."""

    def __init__(self, make: Callable[[], Iterator[Any]]):
        self._make, self._lock = make, threading.Lock()
        self._begin()

    def __call__(self, step: int) -> Any:
        with self._lock:
            if step < self._next and step not in self._kept:
                self._begin()
            while self._next <= step:
                self._draw(step)
            return self._kept[step]

    def again(self, step: int) -> Any:
        """`batch(step)`, drawn already, without beginning again; raises ExperimentError if it is no longer kept."""
        with self._lock:
            if step in self._kept:
                return self._kept[step]
            state = self._states.get(step)
        if state is None:
            raise ExperimentError(f"batch({step}) of the iterator was drawn too long ago: it is no longer kept.")
        other = Stream(self._make)
        other.restore(step, state)
        return other(step)

    def state(self, step: int) -> Any:
        """What `restore` needs to reach `batch(step)` without drawing all items before it, as JSON; or None."""
        with self._lock:
            if step == self._next:
                return self._own_state()
            return self._states.get(step)

    def restore(self, step: int, state: Any) -> None:
        """Go to the position before `batch(step)`, given the state of an equal stream."""
        with self._lock:
            self._begin()
            if state is not None:
                self._iterator.set_state(base64.b64decode(state["bytes"]) if "bytes" in state else state["value"])
                self._next = step

    def to_skip(self, step: int) -> int:
        """How many items have to be drawn and dropped before `batch(step)`."""
        with self._lock:
            return max(step - self._next, 0)

    def _begin(self) -> None:
        self._iterator: Any = self._make()  # with get_state and set_state, if it is one of Grain's
        self._next = 0
        self._kept: dict[int, Any] = {}
        self._states: dict[int, Any] = {}

    def _draw(self, wanted: int) -> None:
        """Draw the next batch, and forget the oldest."""
        self._states[self._next] = self._own_state()
        try:
            self._kept[self._next] = next(self._iterator)
        except StopIteration:
            raise ExperimentError(_ended(self._next, wanted)) from None
        self._next += 1
        self._states.pop(self._next - 1 - KEPT, None)
        size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(self._kept[self._next - 1]))
        fitting = KEPT if not size else max(KEPT_AT_LEAST, min(KEPT, KEPT_BYTES // size))
        while len(self._kept) > fitting:
            del self._kept[next(iter(self._kept))]

    def _own_state(self) -> Any:
        """The iterator's state as JSON has it: Grain's loaders give bytes, its datasets a dict."""
        if not hasattr(self._iterator, "get_state"):
            return None
        state = self._iterator.get_state()
        return {"bytes": base64.b64encode(state).decode()} if isinstance(state, bytes) else {"value": state}
