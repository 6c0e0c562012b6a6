"""The last layer and the loss in a jaxpr: logsumexp(x w + b) and its logit at the label, however they are combined."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...jaxprs.graph import ancestors
from ..linear_cross_entropy import tiled_logits
from .attention_call import arranged, operand_axes
from .attention_pattern import OF_MAXIMUM, laid_out, made_of, same_value
from .attention_scores import Miss, peeled, product_axes
from .axes import CASTS, LAYOUTS, Axes, Label, carried
from .graph import Graph, users_line


class CrossEntropyCall:
    """What is matched, and the call of the block in its place. Raises Miss with the reason if there is none.

    gather: the equation that takes the logit, or log-probability, at the label. lse: the equation whose result is
    logsumexp; None where `gather` takes log-probabilities. equations: all that are matched. first: those that the
    labels depend on.
    """

    def __init__(self, graph: Graph, gather: Any, logits: Any, lse: Any, equations: list[Any]):
        self.graph, self.gather, self.lse = graph, gather, lse
        self.product, axes, self.bias, chain = _linear(graph, logits)
        self.equations = [*equations, *chain, gather]
        ends = [gather] if lse is None else [gather, lse]
        if reason := graph.used_elsewhere(self.equations, ends):
            raise Miss(reason)
        self.replaced = ends
        self.classes, self.tokens = self._split(axes)
        self.first = ancestors(graph.jaxpr.eqns, [gather.invars[1]])
        own = {v for e in self.equations for v in e.outvars}
        if own.intersection(self.first):
            raise Miss("the labels depend on the logits")

    def _split(self, axes: Axes) -> tuple[Label, list[Label]]:
        last = axes[-1]
        tokens = [label for axis in axes[:-1] for label in axis]
        of_classes = [label for label in tokens if label.kind in ("batch", *(label.kind for label in last))]
        if len(last) != 1 or of_classes:
            raise Miss("the logits are not x w with one axis of classes")
        return last[0], tokens

    def __call__(self, equation: Any, read: Callable[[Any], Any], done: dict[int, Any]) -> list[Any]:
        """The result of one of the equations that are replaced; `done` keeps those of this run."""
        if id(self) not in done:
            done[id(self)] = self._summary(read)
        summary, aval = done[id(self)], equation.outvars[0].aval
        of_gather = summary.at_label
        if self.lse is None:  # NaN of a label that is no class; nothing then depends on the logits
            of_gather = jnp.where(jnp.isnan(of_gather), of_gather, of_gather - summary.lse)
        result = of_gather if equation is self.gather else summary.lse
        return [result.reshape(aval.shape).astype(aval.dtype)]

    def _summary(self, read: Callable[[Any], Any]) -> Any:
        contracted, batched = self.product.params["dimension_numbers"]
        sides = (0, 1) if self.classes.kind == "right" else (1, 0)
        x, w = (read(self.product.invars[side]) for side in sides)
        x_axes, w_axes = (
            operand_axes(self.product.invars[side], side, contracted[side], batched[side]) for side in sides
        )
        size = [label for axis in x_axes for label in axis if label.kind == "size"]
        tied = w_axes[0] == (self.classes,)
        x = arranged(x, x_axes, (self.tokens, size))
        w = arranged(w, w_axes, ([self.classes], size) if tied else (size, [self.classes]))
        labels = read(self.gather.invars[1]).reshape(x.shape[0]).astype(jnp.int32)
        bias = None if self.bias is None else read(self.bias).reshape(self.classes.size)
        return tiled_logits(x, w, bias, labels, None, tied=tied, with_mean=False)


def match(graph: Graph, gather: Any) -> CrossEntropyCall | None:
    """The cross-entropy whose logit at the label this equation takes; None if there is none."""
    if not _takes_one_of_the_last_axis(gather):
        return None
    logits = gather.invars[0]
    if (log_softmax := _log_softmax(graph, logits)) is not None:
        logits, equations = log_softmax
        return CrossEntropyCall(graph, gather, logits, None, equations)
    lse = _logsumexp_of(graph, logits)
    return None if lse is None else CrossEntropyCall(graph, gather, logits, *lse)


def _takes_one_of_the_last_axis(gather: Any) -> bool:
    """`jnp.take_along_axis(x, i[..., None], -1)`; one that clips an index, or has another fill than NaN, is
    another function."""
    numbers, operand = gather.params["dimension_numbers"], gather.invars[0].aval
    last = operand.ndim - 1
    leading = tuple(range(last))
    places = numbers.collapsed_slice_dims, numbers.start_index_map, numbers.operand_batching_dims
    fits = places == ((last,), (last,), leading) and tuple(numbers.start_indices_batching_dims) == leading
    if not fits or last < 0 or gather.invars[1].aval.size != math.prod(operand.shape[:-1]):
        return False
    fill = gather.params["fill_value"]
    usual = "CLIP" not in str(gather.params["mode"]) and (fill is None or bool(np.isnan(fill)))
    return usual and jnp.issubdtype(operand.dtype, jnp.floating)


def _log_softmax(graph: Graph, atom: Any) -> tuple[Any, list[Any]] | None:
    """(x - m) - log Σ exp(x - m): x, and the equations."""
    outer = graph.named(atom, "sub")
    logarithm = None if outer is None else graph.named(laid_out(graph, outer.invars[1])[1], "log")
    inner = None if outer is None else graph.named(outer.invars[0], "sub")
    if outer is None or logarithm is None or inner is None:
        return None
    logits, m = inner.invars
    between = made_of(graph, outer.invars[1], outer.invars[0], {"log", "reduce_sum", "exp", "abs"} | LAYOUTS | CASTS)
    maximum = made_of(graph, m, logits, OF_MAXIMUM)
    sums = [e for e in between or () if e.primitive.name == "reduce_sum"]
    last = (atom.aval.ndim - 1,)
    if not all(graph.is_constant_along(x, logits, last) for x in (m, outer.invars[1])):
        return None
    if between is None or maximum is None or [e.params["axes"][0] for e in sums] != [atom.aval.ndim - 1]:
        return None
    names = [e.primitive.name for e in between if e.primitive.name not in LAYOUTS | CASTS]
    if names not in (["log", "reduce_sum", "exp"], ["log", "abs", "reduce_sum", "exp"]):
        return None
    return logits, [outer, inner, *between, *maximum]


def _logsumexp_of(graph: Graph, logits: Any) -> tuple[Any, list[Any]] | None:
    """The equation log Σ exp(x - m) + m that ends in logsumexp, and all of it."""
    for shifted in graph.readers.get(logits, ()):
        if shifted.primitive.name != "sub" or shifted.invars[0] is not logits:
            continue
        end = _end_of_chain(graph, shifted, ("exp", "reduce_sum", "log", "add"))
        if end is None:
            continue
        names = OF_MAXIMUM | {"sub", "exp", "reduce_sum", "log", "add"}
        equations = made_of(graph, end.outvars[0], logits, names)
        sums = [e for e in equations or () if e.primitive.name == "reduce_sum"]
        last = logits.aval.ndim - 1
        axes, own = graph.axes_from(end.outvars[0], logits) or (), graph.axes_from(logits, logits) or ()
        in_place = [a for a in axes if a] == [a for a in own[:-1] if a]
        whole = equations is not None and [tuple(map(int, e.params["axes"])) for e in sums] == [(last,)]
        whole = whole and any(same_value(graph, x, shifted.invars[1]) for x in end.invars)
        if whole and in_place and graph.is_constant_along(shifted.invars[1], logits, (last,)):
            return end, equations
    return None


def _end_of_chain(graph: Graph, equation: Any, names: tuple[str, ...]) -> Any:
    """The last of these equations, each the only reader of the one before, layouts and casts between them aside."""
    for name in names:
        while True:
            readers = graph.readers.get(equation.outvars[0], ())
            if len(readers) != 1:
                return None
            (equation,) = readers
            if equation.primitive.name == name:
                break
            if equation.primitive.name not in LAYOUTS | CASTS | ({"abs"} if name == "log" else set()):
                return None
    return equation


def _linear(graph: Graph, logits: Any) -> tuple[Any, Axes, Any, list[Any]]:
    """The product x w, the axes of the logits, the bias or None, and the equations."""
    layouts, atom = laid_out(graph, logits)
    bias, added = None, graph.named(atom, "add")
    more: list[Any] = []
    if added is not None:
        more, atom = laid_out(graph, added.invars[0])
    product = graph.named(atom, "dot_general")
    if product is None:
        raise Miss("the logits are no product of two arrays in the same function")
    axes = product_axes(product)
    for equation in reversed(more):
        axes = _through(equation, axes)
    if added is not None:
        bias, of_bias = peeled(graph, added.invars[1], axes)
        if added.invars[0].aval.shape != added.outvars[0].aval.shape or [a for a in of_bias if a] != [axes[-1]]:
            raise Miss(f"what is added to the logits at {users_line(added)} is no bias of the classes")
    for equation in reversed(layouts):
        axes = _through(equation, axes)
    return product, axes, bias, [product, *more, *([] if added is None else [added]), *layouts]


def _through(equation: Any, axes: Axes) -> Axes:
    found = carried(equation, axes)
    if found is None:
        raise Miss(f"the logits pass through {equation.primitive.name} at {users_line(equation)}, which mixes axes")
    return found
