"""The logit or log-probability at the label: by `take_along_axis`, or summed with one-hot targets, also smoothed."""

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .attention_pattern import laid_out
from .axes import Axis, Label
from .graph import Graph
from .sums import Factor, SumOfProduct, sum_of_product


class Weight(NamedTuple):
    """Of each token: an array, and which axis of the source each of its axes is; None: it is the same all along it."""

    atom: Any
    axes: tuple[int | None, ...]


class AtLabel(NamedTuple):
    """How a value is taken at its label.

    equation: whose result it is. source: the logits or log-probabilities, (…tokens, classes). labels: the atom that
    holds them, repeated along the classes if `repeated`. outside: what a label gives that is no class. equations: all
    that are matched. kept: the axes of tokens that the result has, in its order; over the others it is summed. weights:
    what each token is multiplied with before that. hit, elsewhere: the weights of the value at the label and of each
    other one.
    """

    equation: Any
    source: Any
    labels: Any
    repeated: bool
    outside: float
    equations: list[Any]
    kept: tuple[int, ...]
    weights: tuple["Weight", ...] = ()
    hit: float = 1.0
    elsewhere: float = 0.0


def at_label(graph: Graph, equation: Any) -> AtLabel | None:
    """What an equation takes at a label of each row, or None."""
    if equation.primitive.name == "gather":
        return _taken(equation)
    total = sum_of_product(graph, equation)
    return None if total is None else _multiplied(graph, equation, total)


def sums_classes(equation: Any) -> bool:
    """Whether it sums over the last axis, and maybe others."""
    return equation.primitive.name == "reduce_sum" and equation.invars[0].aval.ndim - 1 in equation.params["axes"]


def is_constant_along(graph: Graph, atom: Any, axis: int) -> bool:
    """Whether a value is the same all along an axis, as it is repeated along it."""
    base = atom
    while (equation := graph.named(base, "broadcast_in_dim", "reshape", "expand_dims", "squeeze")) is not None:
        base = equation.invars[0]
    axes = None if base is atom else graph.axes_from(atom, base)
    return axes is not None and axes[axis] == ()


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
    return AtLabel(gather, gather.invars[0], gather.invars[1], False, math.nan, [gather], leading)


def _multiplied(graph: Graph, equation: Any, total: SumOfProduct) -> AtLabel | None:
    """`jnp.sum(targets * x, -1)` with targets made of `jax.nn.one_hot(labels, classes)`; also as an einsum, summed over
    tokens at once, or weighted."""
    for factor in total.factors:
        if (targets := _targets(graph, factor.atom)) is None:
            continue
        same = targets.equations[-1]
        rest = [other for other in total.factors if other is not factor]
        axes = factor.axes_from(graph, same.outvars[0])
        if axes is None or (sources := _sources(graph, rest, same.outvars[0].aval.shape, axes)) is None:
            continue
        layouts, source, weights = sources
        if (kept := _kept(total, axes, _columns(source.aval.shape))) is None:
            continue
        for labels, classes in (same.invars, same.invars[::-1]):
            if is_constant_along(graph, labels, -1) and _counts_classes(graph, classes):
                inside = [*total.equations, *targets.equations, *layouts]
                numbers = [total.number * number for number in (targets.hit, targets.elsewhere)]
                return AtLabel(equation, source, labels, True, 0.0, inside, kept, tuple(weights), *numbers)
    return None


def _sources(
    graph: Graph, factors: Sequence[Factor], shape: tuple[int, ...], axes: dict[int, Axis]
) -> tuple[list[Any], Any, list[Weight]] | None:
    """What the targets are multiplied with: the equations that lay the source out as they are, it, and weights that are
    the same for all classes."""
    weights = {id(factor): weight for factor in factors if (weight := _weight(graph, factor, shape, axes)) is not None}
    others = [factor for factor in factors if id(factor) not in weights]
    if len(others) != 1:
        return None
    layouts, source = laid_out(graph, others[0].atom)
    same = source.aval.shape == shape and others[0].axes_from(graph, source) == axes
    return (layouts, source, list(weights.values())) if same else None


def _weight(graph: Graph, factor: Factor, shape: tuple[int, ...], axes: dict[int, Axis]) -> Weight | None:
    """A factor that is the same for all classes."""
    found: list[int | None] = []
    for i, (place, size) in enumerate(zip(factor.places, factor.atom.aval.shape, strict=True)):
        labels = axes[place]
        if size != 1 and (
            len(labels) != 1 or (labels == (_columns(shape),) and not is_constant_along(graph, factor.atom, i))
        ):
            return None
        found.append(None if size == 1 or labels == (_columns(shape),) else labels[0].index)
    return Weight(factor.atom, tuple(found))


def _columns(shape: tuple[int, ...]) -> Label:
    return Label("own", len(shape) - 1, shape[-1])


def _kept(total: SumOfProduct, axes: dict[int, Axis], classes: Label) -> tuple[int, ...] | None:
    """The axes of tokens of the result, in its order; None if it does not sum over the classes."""
    summed = [label for place in total.summed for label in axes[place]]
    return tuple(label.index for place in total.kept for label in axes[place]) if classes in summed else None


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
