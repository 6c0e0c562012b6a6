"""Which axis of one array is which axis of another, through transposes, reshapes and broadcasts.

An axis is a tuple of labels: of one, if it is an axis of the array at which the search began; of several, if it merges
such axes; of none, if its size is 1. A label carries its size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Label(NamedTuple):
    """An axis of the scores: of the batch, of the first product's left operand or of its right one."""

    kind: str  # "batch", "left", "right"
    index: Any  # in the operand; for "batch", among the axes of the batch; of a part, this and which part
    size: int


Axis = tuple[Label, ...]
Axes = tuple[Axis, ...]

LAYOUTS = {"transpose", "reshape", "squeeze", "broadcast_in_dim", "expand_dims"}
CASTS = {"convert_element_type", "copy", "copy_p", "reduce_precision", "optimization_barrier", "sharding_constraint"}


def keeps_values(equation: Any) -> bool:
    """Whether an equation of CASTS keeps its operand, but for rounding to 16 bits or more: not where it makes integers
    or 8-bit numbers of it, as quantization does."""
    before, after = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
    if len(equation.invars) != 1 or equation.params.get("mantissa_bits", 7) < 7:
        return False
    if before == after:
        return True
    if jnp.issubdtype(after, np.floating):
        return after.itemsize > 1 and not jnp.issubdtype(before, np.complexfloating)
    return jnp.issubdtype(after, np.integer) and np.can_cast(before, after)


def axis_of(label: Label) -> Axis:
    return () if label.size == 1 else (label,)


def carried(equation: Any, axes: Axes) -> Axes | None:
    """The axes of the output of an equation that only lays out its operand anew; None where they are not known."""
    params = equation.params
    match equation.primitive.name:
        case "transpose":
            return tuple(axes[i] for i in params["permutation"])
        case "squeeze":
            return tuple(axis for i, axis in enumerate(axes) if i not in params["dimensions"])
        case "broadcast_in_dim":
            return _broadcast(equation, axes)
        case "reshape":
            return _reshaped(axes, equation.outvars[0].aval.shape)
        case name if name in CASTS and keeps_values(equation):
            return axes
    return None


def before_transposes(graph: Any, atom: Any, axes: Axes) -> tuple[Any, Axes]:
    """An array before it is transposed, as a tied table in `x @ table.T`, and its axes: of what is cut into tiles in a
    loop, the transpose would be a copy of the whole."""
    while (equation := graph.named(atom, "transpose")) is not None:
        order = list(equation.params["permutation"])
        atom, axes = equation.invars[0], tuple(axes[order.index(i)] for i in range(len(order)))
    return atom, axes


def _broadcast(equation: Any, axes: Axes) -> Axes | None:
    """Only of axes of size 1 that are added: a repeated value is another array."""
    given, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    if math.prod(given) != math.prod(out):
        return None
    places = dict(zip(equation.params["broadcast_dimensions"], axes, strict=True))
    return tuple(places.get(i, ()) for i in range(len(out)))


def _reshaped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    labels, found = [label for axis in axes for label in axis], []
    for size in shape:
        axis: list[Label] = []
        while math.prod(label.size for label in axis) < size:
            if not labels:
                return None
            axis.append(labels.pop(0))
        if math.prod(label.size for label in axis) != size:
            return None
        found.append(tuple(axis))
    return None if labels else tuple(found)


def splits(axes: Axes, shape: Sequence[int]) -> dict[Label, Axis] | None:
    """The parts of axes that a reshape splits; None where parts of several would be merged in another way."""
    rest, parts = [(label, label.size) for axis in axes for label in axis], {}
    for size in shape:
        while size > 1:
            if not rest:
                return None
            label, own = rest.pop(0)
            part = min(own, size)
            if own % part or size % part:
                return None
            parts.setdefault(label, []).append(part)
            size //= part
            if own > part:
                rest.insert(0, (label, own // part))
    return {
        label: tuple(Label(label.kind, (label.index, i), part) for i, part in enumerate(own))
        for label, own in parts.items()
        if len(own) > 1
    }


def refined(axes: Axes, parts: Mapping[Label, Axis]) -> Axes:
    """The same axes with the parts of those that are split."""
    for label, own in parts.items():
        axes = tuple(tuple(x for each in axis for x in (own if each == label else (each,))) for axis in axes)
    return axes
