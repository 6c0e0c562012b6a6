"""What a mask says by its structure: a band of positions (causal, a window), everything, or something only its values
tell.

Followed from `iota` through additions of constants, comparisons, conjunctions, broadcasts and the steps of `jnp.tril`.
"""

from typing import Any, NamedTuple

import numpy as np

from ...jaxprs.types import is_var
from .axes import CASTS
from .graph import Graph


class Index(NamedTuple):
    """An integer array whose elements are their position along an axis plus an offset."""

    axis: int
    offset: int


class Band(NamedTuple):
    """A boolean array: True where left <= column - row <= right; axes that are None, and no bounds, for True alone."""

    row: int | None = None
    column: int | None = None
    left: int | None = None
    right: int | None = None


def position_of(graph: Graph, atom: Any) -> Index | Band | None:
    """What is known of a value by its structure."""
    if not is_var(atom):
        return Band() if atom.aval.dtype == bool and bool(atom.val) else None
    if atom in graph.known:
        return graph.known[atom]
    equation = graph.made_by(atom)
    found = None if equation is None else _of_equation(graph, equation)
    graph.known[atom] = found
    return found


def _of_equation(graph: Graph, equation: Any) -> Index | Band | None:
    params, operands = equation.params, equation.invars
    match equation.primitive.name:
        case "iota":
            return Index(params["dimension"], 0) if _holds_positions(equation) else None
        case "add" | "sub":
            return _shifted(graph, equation)
        case "ge" | "gt" | "le" | "lt":
            return _compared(graph, equation)
        case "and":
            return _both(*(position_of(graph, x) for x in operands))
        case "select_n":
            return _selected(graph, equation)
        case "ne" if graph.number(operands[1]) == 0:  # a mask that was made a number
            return position_of(graph, operands[0])
        case "transpose":
            return _moved(position_of(graph, operands[0]), dict(_places(params["permutation"])))
        case "broadcast_in_dim":
            before, after = operands[0].aval.shape, equation.outvars[0].aval.shape
            pairs = enumerate(params["broadcast_dimensions"])
            return _moved(position_of(graph, operands[0]), {i: j for i, j in pairs if before[i] == after[j]})
        case "reshape" | "squeeze":
            return _moved(
                position_of(graph, operands[0]), _kept_axes(operands[0].aval.shape, equation.outvars[0].aval.shape)
            )
        case name if name in CASTS and len(operands) == 1:
            position = position_of(graph, operands[0])
            return position if isinstance(position, Band) or _holds_positions(equation) else None
    return None


def _holds_positions(equation: Any) -> bool:
    """Not in floating numbers, to which a half may be added; nor in unsigned or short integers, that wrap around."""
    return equation.outvars[0].aval.dtype in (np.int32, np.int64)


def _places(permutation: Any) -> list[tuple[int, int]]:
    return [(old, new) for new, old in enumerate(permutation)]


def _kept_axes(before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """Where axes are after axes of size 1 come or go; empty where more than that happens."""
    old, new = ([i for i, size in enumerate(shape) if size != 1] for shape in (before, after))
    return dict(zip(old, new, strict=True)) if [before[i] for i in old] == [after[i] for i in new] else {}


def _moved(position: Index | Band | None, places: dict[int, int]) -> Index | Band | None:
    match position:
        case Index(axis, offset):
            return Index(places[axis], offset) if axis in places else None
        case Band(None):
            return position
        case Band(row, column, left, right) if row in places and column in places:
            return Band(places[row], places[column], left, right)
    return None


def _shifted(graph: Graph, equation: Any) -> Index | None:
    sign = 1 if equation.primitive.name == "add" else -1
    x, y = equation.invars
    position, number = position_of(graph, x), graph.number(y)
    if sign == 1 and not isinstance(position, Index):
        position, number = position_of(graph, y), graph.number(x)
    if not isinstance(position, Index) or number is None:
        return None
    return Index(position.axis, position.offset + sign * int(number))


def _compared(graph: Graph, equation: Any) -> Band | None:
    """x >= y of positions i + a and j + b: with i the row, j - i <= a - b."""
    x, y = (position_of(graph, atom) for atom in equation.invars)
    if not (isinstance(x, Index) and isinstance(y, Index)) or x.axis == y.axis:
        return None
    name = equation.primitive.name
    if name in ("le", "lt"):
        x, y = y, x
    bound = x.offset - y.offset - (name in ("gt", "lt"))
    if x.axis < y.axis:  # the row is the earlier axis
        return Band(x.axis, y.axis, None, bound)
    return Band(y.axis, x.axis, -bound, None)


def _selected(graph: Graph, equation: Any) -> Band | None:
    """`jnp.tril(ones)`: where the condition is False, False."""
    if len(equation.invars) != 3 or graph.number(equation.invars[1]) != 0:
        return None
    kept = equation.invars[2]
    whole = Band() if graph.number(kept) == 1 else position_of(graph, kept)
    return _both(position_of(graph, equation.invars[0]), whole)


def _both(x: Any, y: Any) -> Band | None:
    if not (isinstance(x, Band) and isinstance(y, Band)):
        return None
    if x.row is None or y.row is None:
        return y if x.row is None else x
    if (x.row, x.column) != (y.row, y.column):
        return None
    lefts, rights = ([b for b in pair if b is not None] for pair in ((x.left, y.left), (x.right, y.right)))
    return Band(x.row, x.column, max(lefts, default=None), min(rights, default=None))
