"""The logit, or log-probability, of the label: by `take_along_axis`, or as a sum with a one-hot array."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .attention_pattern import laid_out
from .graph import Graph


class AtLabel(NamedTuple):
    """How a value is taken at its label.

    equation: whose result it is. source: the logits or log-probabilities. labels: the atom that holds them, repeated
    along the classes if `repeated`. outside: what a label gives that is no class. equations: all that are matched.
    """

    equation: Any
    source: Any
    labels: Any
    repeated: bool
    outside: float
    equations: list[Any]


def at_label(graph: Graph, equation: Any) -> AtLabel | None:
    """What an equation takes at a label of each row, or None."""
    if equation.primitive.name == "gather":
        return _taken(equation)
    return _multiplied(graph, equation) if sums_classes(equation) else None


def sums_classes(equation: Any) -> bool:
    """Whether it sums over the last axis alone."""
    return equation.primitive.name == "reduce_sum" and tuple(equation.params["axes"]) == (
        equation.invars[0].aval.ndim - 1,
    )


def is_constant_along_classes(graph: Graph, atom: Any) -> bool:
    """Whether a value is the same for all classes, the last axis, as it is repeated along them."""
    base = atom
    while (equation := graph.named(base, "broadcast_in_dim", "reshape", "expand_dims", "squeeze")) is not None:
        base = equation.invars[0]
    axes = None if base is atom else graph.axes_from(atom, base)
    return axes is not None and axes[-1] == ()


def _taken(gather: Any) -> AtLabel | None:
    """`jnp.take_along_axis(x, i[..., None], -1)`; one that clips an index, or has another fill than NaN, is
    another function."""
    numbers, operand = gather.params["dimension_numbers"], gather.invars[0].aval
    last = operand.ndim - 1
    leading = tuple(range(last))
    places = numbers.collapsed_slice_dims, numbers.start_index_map, numbers.operand_batching_dims
    fits = places == ((last,), (last,), leading) and tuple(numbers.start_indices_batching_dims) == leading
    if not fits or last < 0 or gather.invars[1].aval.size != math.prod(operand.shape[:-1]):
        return None
    fill = gather.params["fill_value"]
    usual = "CLIP" not in str(gather.params["mode"]) and (fill is None or bool(np.isnan(fill)))
    if not usual or not jnp.issubdtype(operand.dtype, jnp.floating):
        return None
    return AtLabel(gather, gather.invars[0], gather.invars[1], False, math.nan, [gather])


def _multiplied(graph: Graph, total: Any) -> AtLabel | None:
    """`jnp.sum(jax.nn.one_hot(labels, classes) * x, -1)`."""
    product = graph.named(total.invars[0], "mul")
    for i in (0, 1) if product is not None else ():
        casts, base = laid_out(graph, product.invars[i])
        same = graph.named(base, "eq")
        if same is None or base.aval.shape != product.outvars[0].aval.shape:
            continue
        for labels, classes in (same.invars, same.invars[::-1]):
            if is_constant_along_classes(graph, labels) and _counts_classes(graph, classes):
                return AtLabel(total, product.invars[1 - i], labels, True, 0.0, [total, product, *casts, same])
    return None


def _counts_classes(graph: Graph, atom: Any) -> bool:
    """Whether a value is the number of the class."""
    _, base = laid_out(graph, atom)
    iota = graph.named(base, "iota")
    if iota is None:
        return False
    axes, own = graph.axes_from(atom, base), graph.axes_from(base, base)
    return axes is not None and [axis for axis in axes if axis] == [axes[-1]] == [own[iota.params["dimension"]]]
