"""Mutable references in numpy: a box that holds an array, and the equations that read and write it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


class Box:
    """The present value of one reference."""

    def __init__(self, value: Any):
        self.value = np.array(value)


def _new(_: Any, operands: Sequence[Any]) -> list[Any]:
    return [Box(operands[0])]


def _freeze(_: Any, operands: Sequence[Any]) -> list[Any]:
    return [operands[0].value.copy()]


def _get(equation: Any, operands: Sequence[Any]) -> list[Any]:
    box, *indices = operands
    return [np.array(box.value[_places(equation, indices)])]


def _swap(equation: Any, operands: Sequence[Any]) -> list[Any]:
    box, new, *indices = operands
    places = _places(equation, indices)
    old = np.array(box.value[places])
    box.value[places] = new
    return [old]


def _addupdate(equation: Any, operands: Sequence[Any]) -> list[Any]:
    box, term, *indices = operands
    np.add.at(box.value, _places(equation, indices), term)
    return []


def _free(_equation: Any, _operands: Sequence[Any]) -> list[Any]:
    return []


def _places(equation: Any, indices: Sequence[Any]) -> Any:
    """The index of `ref[...]`: whole numbers are moved inside."""
    indexers = jax.tree.unflatten(equation.params["tree"], indices)
    if not indexers:
        return ...
    (indexer,) = indexers
    pairs = zip(indexer.indices, indexer.shape, strict=True)
    return tuple(_slice(index) if hasattr(index, "stride") else _inside(index, size) for index, size in pairs)


def _slice(index: Any) -> slice:
    start = int(index.start)
    return slice(start, start + (index.size - 1) * index.stride + 1, index.stride)


def _inside(index: Any, size: int) -> Any:
    return np.clip(index, 0, size - 1)


REFERENCES = {
    "new_ref": _new,
    "freeze": _freeze,
    "free_ref": _free,
    "get": _get,
    "swap": _swap,
    "addupdate": _addupdate,
}
