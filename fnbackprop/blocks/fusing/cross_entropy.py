"""The last layer and the loss in a jaxpr: logsumexp(x w + b) and its logit at the label, however they are combined."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from ...jaxprs.graph import ancestors
from ..tiled_logits import Summary, tiled_logits
from .attention_call import arranged, operand_axes
from .attention_pattern import OF_MAXIMUM, laid_out, made_of, same_value, softmax
from .attention_scores import Miss, product_axes
from .axes import CASTS, LAYOUTS, Axes, Label, before_transposes, carried, keeps_values
from .graph import Graph
from .hiding import peeled
from .labels import AtLabel, Weight, at_label, is_constant_along, sums_classes
from .sums import sum_of_product


class CrossEntropyCall:
    """What is matched, and the call of the block in its place. Raises Miss with the reason if there is none.

    at: the logit, or log-probability, at the label. lse: the equation whose result is logsumexp; None where `at` is of
    log-probabilities. sums: the equations that sum what `at` is taken from over all classes, as label smoothing does.
    equations: all that are matched. first: those that the block's operands depend on.
    """

    def __init__(self, graph: Graph, at: AtLabel, logits: Any, lse: Any, equations: list[Any]):
        self.graph, self.at, self.lse = graph, at, lse
        casts, self.sums = _sums_of(graph, at.source)
        linear = _linear(graph, logits)
        self.product, axes, self.bias, self.mask = linear.product, linear.axes, linear.bias, linear.mask
        self.replaced = [at.equation, *self.sums, *([] if lse is None else [lse])]
        self.equations = [*equations, *linear.equations, *at.equations, *casts, *self.sums]
        if reason := graph.used_elsewhere(self.equations, self.replaced):
            raise Miss(reason)
        self.classes, self.tokens = self._split(axes)
        self.first = ancestors(graph.jaxpr.eqns, [at.labels, *([] if self.mask is None else [self.mask])])
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
        summary, aval, last = done[id(self)], equation.outvars[0].aval, self.at.source.aval.ndim - 1
        shift = summary.lse if self.lse is None else jnp.zeros_like(summary.lse)  # of log-probabilities
        kept = tuple(range(last))
        if equation is self.lse:
            result = summary.lse
        elif equation is self.at.equation:  # of a label that is no class; nothing then depends on the logits
            result, kept = self._weighted(summary, shift, read), self.at.kept
        else:
            result = self.classes.size * (summary.mean - shift)
            kept = tuple(i for i in kept if i not in equation.params["axes"])
        return [self._summed(result, kept).reshape(aval.shape).astype(aval.dtype)]

    def _weighted(self, summary: Summary, shift: Any, read: Callable[[Any], Any]) -> Any:
        """Of each token, what is summed: the weighted value at its label, and those elsewhere."""
        at = self.at
        outside = jnp.isnan(summary.at_label) & ~jnp.isnan(summary.lse)  # the label; not a token that holds NaN
        result = jnp.where(outside, at.outside, summary.at_label - shift)
        if (at.hit, at.elsewhere) != (1, 0):
            result = (at.hit - at.elsewhere) * result
        if at.elsewhere:
            result += at.elsewhere * self.classes.size * (summary.mean - shift)
        for weight in at.weights:
            result = result * self._of_tokens(weight, jnp.asarray(read(weight.atom))).astype(result.dtype)
        return result

    def _of_tokens(self, weight: Weight, x: Any) -> Any:
        """A weight as an array of (tokens,)."""
        shape = self.at.source.aval.shape[:-1]
        tokens = [axis for axis in weight.axes if axis is not None and axis < len(shape)]
        x = x[tuple(slice(None) if axis in tokens else 0 for axis in weight.axes)]
        x = jnp.transpose(x, [tokens.index(i) for i in sorted(tokens)])
        x = x.reshape([n if i in tokens else 1 for i, n in enumerate(shape)])
        return jnp.broadcast_to(x, shape).reshape(math.prod(shape))

    def _summed(self, x: Any, kept: tuple[int, ...]) -> Any:
        """(tokens,) summed over the axes of tokens that are not kept, which have their order in the result."""
        shape = self.at.source.aval.shape[:-1]
        if kept == tuple(range(len(shape))):
            return x
        x = jnp.sum(x.reshape(shape), [i for i in range(len(shape)) if i not in kept])
        return jnp.transpose(x, [sorted(kept).index(i) for i in kept])

    def _summary(self, read: Callable[[Any], Any]) -> Any:
        contracted, batched = self.product.params["dimension_numbers"]
        sides = (0, 1) if self.classes.kind == "right" else (1, 0)
        x, w = (self.product.invars[side] for side in sides)
        x_axes, w_axes = (
            operand_axes(atom, side, contracted[side], batched[side]) for atom, side in zip((x, w), sides, strict=True)
        )
        w, w_axes = before_transposes(self.graph, w, w_axes)
        size = [label for axis in x_axes for label in axis if label.kind == "size"]
        tied = w_axes[0] == (self.classes,)
        x = arranged(read(x), x_axes, (self.tokens, size))
        w = arranged(read(w), w_axes, ([self.classes], size) if tied else (size, [self.classes]))
        labels = read(self.at.labels)
        labels = (labels[..., 0] if self.at.repeated else labels).reshape(x.shape[0]).astype(jnp.int32)
        bias = None if self.bias is None else read(self.bias).reshape(self.classes.size)
        mask = None if self.mask is None else read(self.mask)[..., 0].reshape(x.shape[0])
        found = tiled_logits(x, w, bias, labels, mask, tied=tied, with_mean=bool(self.sums or self.at.elsewhere))
        return found if mask is None else _masked(found, mask, self.classes.size)


def _masked(summary: Summary, mask: Any, classes: int) -> Summary:
    """Of logits that are 0 where the mask is False; a label that is no class stays NaN."""
    at_label = jnp.where(mask, summary.at_label, jnp.where(jnp.isnan(summary.at_label), jnp.nan, 0))
    mean = None if summary.mean is None else jnp.where(mask, summary.mean, 0)
    return Summary(jnp.where(mask, summary.lse, math.log(classes)), at_label, mean)


def match(graph: Graph, equation: Any) -> CrossEntropyCall | None:
    """The cross-entropy whose logit at the label this equation takes; None if there is none."""
    at = at_label(graph, equation)
    if at is None:
        _require_labels(graph, equation)
        return None
    if (log_softmax := _log_softmax(graph, at.source)) is not None:
        logits, equations = log_softmax
        return CrossEntropyCall(graph, at, logits, None, equations)
    lse = _logsumexp_of(graph, at.source)
    if lse is None:
        _require_log_softmax(graph, at.source)
        return None
    return CrossEntropyCall(graph, at, at.source, *lse)


def _require_log_softmax(graph: Graph, source: Any) -> None:
    """Of log(softmax(x w)), which is -inf where the softmax underflows: say so."""
    logarithm = graph.named(laid_out(graph, source)[1], "log")
    found = None if logarithm is None else softmax(graph, laid_out(graph, logarithm.invars[0])[1])
    if found is not None and _is_last_layer(graph, found[0]):
        raise Miss(f"the logarithm of a softmax at {graph.line(logarithm)} may be -inf: use jax.nn.log_softmax")


def _require_labels(graph: Graph, equation: Any) -> None:
    """Of Σ targets · log_softmax(x w) with targets that are no labels, or of log(softmax(x w)): say so."""
    if (total := sum_of_product(graph, equation)) is None:
        return
    for factor in total.factors:
        log_softmax = _log_softmax(graph, laid_out(graph, factor.atom)[1])
        over_classes = factor.places[-1:] and factor.places[-1] in total.summed
        if log_softmax is not None and over_classes and _is_last_layer(graph, log_softmax[0]):
            line = graph.line(equation)
            raise Miss(
                f"what is multiplied with the log-probabilities at {line} is not made of the labels of its tokens"
            )


def _sums_of(graph: Graph, source: Any) -> tuple[list[Any], list[Any]]:
    """The equations that sum a value over its classes, and those that cast it before."""
    casts, sums = [], []
    for equation in graph.readers.get(source, ()):
        if sums_classes(equation):
            sums.append(equation)
        elif equation.primitive.name in CASTS and keeps_values(equation):
            own = [e for e in graph.readers.get(equation.outvars[0], ()) if sums_classes(e)]
            casts += [equation] if own else []
            sums += own
    return casts, sums


def _is_last_layer(graph: Graph, logits: Any) -> bool:
    try:
        _linear(graph, logits)
    except Miss:
        return False
    return True


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


class Linear(NamedTuple):
    """x w + b, with the axes of the result. mask: the atom, repeated along the classes, where it becomes 0 if False."""

    product: Any
    axes: Axes
    bias: Any
    mask: Any
    equations: list[Any]


def _linear(graph: Graph, logits: Any) -> Linear:
    layouts, atom = laid_out(graph, logits)
    mask, selection = _mask_of(graph, atom)
    if selection is not None:
        more, atom = laid_out(graph, selection.invars[2])
        layouts += [selection, *more]
    bias, added = None, graph.named(atom, "add")
    before: list[Any] = []
    if added is not None:
        before, atom = laid_out(graph, added.invars[0])
    product = graph.named(atom, "dot_general")
    if product is None:
        raise Miss("the logits are no product of two arrays in the same function")
    axes = product_axes(product)
    for equation in reversed(before):
        axes = _through(graph, equation, axes)
    if added is not None:
        bias, of_bias = peeled(graph, added.invars[1], axes)
        if added.invars[0].aval.shape != added.outvars[0].aval.shape or [a for a in of_bias if a] != [axes[-1]]:
            raise Miss(f"what is added to the logits at {graph.line(added)} is no bias of the classes")
    for equation in reversed(layouts):
        axes = axes if equation is selection else _through(graph, equation, axes)
    return Linear(product, axes, bias, mask, [product, *before, *([] if added is None else [added]), *layouts])


def _mask_of(graph: Graph, atom: Any) -> tuple[Any, Any]:
    """Of `jnp.where(mask[..., None], y, 0)`: the mask, and the equation."""
    selection = graph.named(atom, "select_n")
    if selection is None or len(selection.invars) != 3 or graph.number(selection.invars[1]) != 0:
        return None, None
    return (selection.invars[0], selection) if is_constant_along(graph, selection.invars[0], -1) else (None, None)


def _through(graph: Graph, equation: Any, axes: Axes) -> Axes:
    found = carried(equation, axes)
    if found is None:
        raise Miss(f"the logits pass through {equation.primitive.name} at {graph.line(equation)}, which mixes axes")
    return found
