"""The logit or log-probability at the label: by `take_along_axis`, or as a sum with one-hot targets, also smoothed."""

import math
import operator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .attention_pattern import laid_out
from .graph import Graph


class AtLabel(NamedTuple):
    """How a value is taken at its label.

    equation: whose result it is. source: the logits or log-probabilities. labels: the atom that holds them, repeated
    along the classes if `repeated`. outside: what a label gives that is no class. equations: all that are matched.
    hit, elsewhere: the weights of the value at the label and of each other one in the sum that is the result.
    """

    equation: Any
    source: Any
    labels: Any
    repeated: bool
    outside: float
    equations: list[Any]
    hit: float = 1.0
    elsewhere: float = 0.0


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
    """`jnp.sum(targets * x, -1)` with targets made of `jax.nn.one_hot(labels, classes)`."""
    product = graph.named(total.invars[0], "mul")
    for i in (0, 1) if product is not None else ():
        targets = _targets(graph, product.invars[i])
        same = None if targets is None else targets.equations[-1].outvars[0]
        if same is None or graph.axes_from(product.invars[i], same) != graph.axes_from(same, same):
            continue
        if same.aval.shape != product.outvars[0].aval.shape:
            continue
        source, inside = product.invars[1 - i], [total, product, *targets.equations]
        for labels, classes in (operands := targets.equations[-1].invars, operands[::-1]):
            if is_constant_along_classes(graph, labels) and _counts_classes(graph, classes):
                return AtLabel(total, source, labels, True, 0.0, inside, targets.hit, targets.elsewhere)
    return None


class Targets(NamedTuple):
    """A number where two arrays are equal, and another elsewhere; the comparison is the last of the equations."""

    hit: float
    elsewhere: float
    equations: list[Any]


STEPS = {
    "mul": operator.mul, "div": operator.truediv, "add": operator.add, "sub": operator.sub, "neg": operator.neg,
}  # fmt: skip


def _targets(graph: Graph, atom: Any) -> Targets | None:
    """A comparison as numbers, chosen by it or made of 1 and 0: (1 - ε) one-hot + ε / classes, for one."""
    layouts, base = laid_out(graph, atom)
    if (same := graph.named(base, "eq")) is not None:
        return Targets(1.0, 0.0, [*layouts, same])
    if (choice := graph.named(base, "select_n")) is not None and len(choice.invars) == 3:
        more, base = laid_out(graph, choice.invars[0])
        same, numbers = graph.named(base, "eq"), [graph.number(case) for case in choice.invars[1:]]
        return None if same is None or None in numbers else Targets(*numbers[::-1], [*layouts, choice, *more, same])
    step = graph.named(base, *STEPS)
    if step is None or not jnp.issubdtype(base.aval.dtype, jnp.floating):
        return None
    numbers = [graph.number(operand) for operand in step.invars]
    if numbers.count(None) != 1 or (step.primitive.name == "div" and not numbers[1]):
        return None
    place, apply = numbers.index(None), STEPS[step.primitive.name]
    if (inner := _targets(graph, step.invars[place])) is None:
        return None
    hit, elsewhere = (apply(*numbers[:place], x, *numbers[place + 1 :]) for x in (inner.hit, inner.elsewhere))
    return Targets(hit, elsewhere, [*layouts, step, *inner.equations])


def _counts_classes(graph: Graph, atom: Any) -> bool:
    """Whether a value is the number of the class."""
    _, base = laid_out(graph, atom)
    iota = graph.named(base, "iota")
    if iota is None:
        return False
    axes, own = graph.axes_from(atom, base), graph.axes_from(base, base)
    return axes is not None and [axis for axis in axes if axis] == [axes[-1]] == [own[iota.params["dimension"]]]
