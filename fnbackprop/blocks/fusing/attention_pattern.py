"""Attention in a jaxpr: softmax(q kᵀ) v, however it is spelled, matched backwards from the product with the values."""

import contextlib
from dataclasses import dataclass
from typing import Any

from ...jaxprs.types import is_var
from .attention_scores import Miss, Scores, scores_of
from .axes import CASTS, LAYOUTS, Axes, Label, refined
from .graph import Graph

OF_MAXIMUM = {"reduce_max", "max", "stop_gradient", "select_n", "is_finite", "eq", "ne", "abs"} | LAYOUTS | CASTS

DROPS = {"select_n", "mul", "div"}
CHANGES = DROPS | {"add", "sub", "slice", "dynamic_slice", "gather", "concatenate", "pad", "max", "min"}


@dataclass
class AttentionFound:
    """What the block needs of a matched attention.

    product: the equation P v. scores: what the scores are made of; their axes are those of P. keys: the labels that the
    softmax runs over. shared: other axes that the keys have and the queries not. weights_first: whether P is the left
    operand of the product. equations: all that are matched.
    """

    product: Any
    scores: Scores
    keys: list[Label]
    shared: list[Label]
    weights_first: bool
    weights_axes: Axes
    equations: list[Any]


def match(graph: Graph, product: Any) -> AttentionFound | None:
    """Attention that ends in this product, or None if no softmax is multiplied. Raises Miss with a reason."""
    for position in (0, 1):
        layouts, atom = laid_out(graph, product.invars[position])
        found = softmax(graph, atom)
        if found is not None:
            return _attention(graph, product, position == 0, layouts, *found)
        _require_unchanged(graph, atom)
    return None


def laid_out(graph: Graph, atom: Any) -> tuple[list[Any], Any]:
    """The equations that only lay out or cast a value anew, from the last to the first, and what they begin with."""
    found = []
    while (equation := graph.named(atom, *LAYOUTS, *CASTS)) is not None and len(equation.invars) == 1:
        found.append(equation)
        atom = equation.invars[0]
    return found, atom


def softmax(graph: Graph, atom: Any) -> tuple[Any, tuple[int, ...], list[Any]] | None:
    """The argument of a softmax, the axes it runs over, and its equations; None if the value is none."""
    divided = graph.named(atom, "div")
    if divided is not None:
        raised = _exponential(graph, divided.invars[0])
        total = _total_of(graph, divided.invars[1], divided.invars[0])
        if raised is None or total is None:
            return None
        axes, equations = total
        sums = raised.outvars[0]
        if not graph.is_constant_along(divided.invars[1], sums, axes) or not graph.is_constant_along(
            divided.invars[0], sums, ()
        ):
            return None  # as of e / e.sum(-1), which divides columns by the sums of rows
        return _unshifted(graph, raised, axes, [divided, *equations])
    raised = _exponential(graph, atom)
    return None if raised is None else _log_softmax(graph, raised)


def _exponential(graph: Graph, atom: Any) -> Any:
    _, base = laid_out(graph, atom)
    return graph.named(base, "exp")


def _total_of(graph: Graph, atom: Any, raised: Any) -> tuple[tuple[int, ...], list[Any]] | None:
    """The axes over which a value is the sum of another, and the equations of that."""
    layouts, base = laid_out(graph, atom)
    total = graph.named(base, "reduce_sum")
    if total is None:
        return None
    casts, summed = laid_out(graph, total.invars[0])
    casts_of_raised, own = laid_out(graph, raised)
    same = summed is own and all(e.primitive.name in CASTS for e in (*casts, *casts_of_raised))
    return (tuple(map(int, total.params["axes"])), [*layouts, total, *casts, *casts_of_raised]) if same else None


def _unshifted(graph: Graph, raised: Any, axes: tuple[int, ...], equations: list[Any]) -> Any:
    """exp(s - m) or exp(s): s. Softmax does not depend on m, if it is made of the row's maximum alone; nor on another
    that is subtracted before."""
    argument, equations = raised.invars[0], [*equations, raised]
    while (shifted := graph.named(argument, "sub")) is not None:
        s, m = shifted.invars
        of_maximum = made_of(graph, m, s, OF_MAXIMUM)
        if of_maximum is None or not graph.is_constant_along(m, s, axes):
            break
        argument, equations = s, [*equations, shifted, *of_maximum]
    return argument, axes, equations


def _log_softmax(graph: Graph, raised: Any) -> Any:
    """exp(s - logsumexp(s)), or exp of log_softmax(s) = (s - m) - log Σ exp(s - m)."""
    outer = graph.named(raised.invars[0], "sub")
    if outer is None:
        return None
    layouts, base = laid_out(graph, outer.invars[1])
    shift, more = None, []
    if (added := graph.named(base, "add")) is not None:  # log Σ exp(s - m) + m
        for i in (0, 1):
            if graph.named(added.invars[i], "log") is not None:
                base, shift, more = added.invars[i], added.invars[1 - i], [added]
    logarithm = graph.named(base, "log")
    if logarithm is None:
        return None
    more_layouts, base = laid_out(graph, logarithm.invars[0])
    if (magnitude := graph.named(base, "abs")) is not None:  # jax.nn.logsumexp takes that of the sum
        further, base = laid_out(graph, magnitude.invars[0])
        more_layouts += [magnitude, *further]
    total = graph.named(base, "reduce_sum")
    own = None if total is None else _exponential(graph, total.invars[0])
    if total is None or own is None:
        return None
    axes = tuple(map(int, total.params["axes"]))
    argument = own.invars[0]  # of the sum's exponentials
    if shift is not None:  # x - (log Σ exp(x - m) + m)
        inner = graph.named(argument, "sub")
        if inner is None or not same_value(graph, inner.invars[1], shift):
            return None
        argument = inner.invars[0]
    if outer.invars[0] is not argument or not graph.is_constant_along(outer.invars[1], argument, axes):
        return None
    layouts += laid_out(graph, shift)[0] if shift is not None else []
    return _unshifted(graph, own, axes, [raised, outer, *layouts, *more, logarithm, *more_layouts, total])


def same_value(graph: Graph, x: Any, y: Any) -> bool:
    """Whether two arrays are one, laid out or cast."""
    return laid_out(graph, x)[1] is laid_out(graph, y)[1]


def made_of(graph: Graph, atom: Any, source: Any, names: set[str]) -> list[Any] | None:
    """The equations between two values, if they are of these primitives alone and read nothing else."""
    pending, found = [atom], {}
    while pending:
        atom = pending.pop()
        if not is_var(atom) or atom is source:
            continue
        equation = graph.named(atom, *names)
        if equation is None:
            return None
        if id(equation) not in found:
            found[id(equation)] = equation
            pending += equation.invars
    return list(found.values())


def _require_unchanged(graph: Graph, atom: Any) -> None:
    """Of weights that are changed between the softmax and the product: say so."""
    changes = []
    while (equation := graph.named(atom, *CHANGES)) is not None:
        changes.append(equation)
        bases = [laid_out(graph, operand)[1] for operand in equation.invars if is_var(operand)]
        if equation.primitive.name == "div" and _is_score(graph, bases[0]):
            raise Miss(f"the exponentials at {graph.line(equation)} are not divided by their own sum")
        if any(softmax(graph, base) is not None for base in bases):
            dropped = next((e for e in changes if e.primitive.name in DROPS), None)
            if dropped is not None:
                raise Miss(
                    f"its weights are dropped or masked at {graph.line(dropped)}, after the softmax: use "
                    "fb.attention(..., dropout=, key=), or mask the scores"
                )
            raise Miss(f"its weights pass through {equation.primitive.name} at {graph.line(equation)}")
        atom = next((base for base in bases if graph.named(base, *CHANGES) is not None), None)


def _is_score(graph: Graph, raised: Any) -> bool:
    """Whether a value is exp(s), or exp(s - m), with scores s."""
    equation = graph.named(raised, "exp")
    shifted = None if equation is None else graph.named(equation.invars[0], "sub")
    for atom in () if equation is None else (equation.invars[0], *([] if shifted is None else shifted.invars[:1])):
        with contextlib.suppress(Miss):
            scores_of(graph, atom)
            return True
    return False


def _attention(
    graph: Graph, product: Any, first: bool, layouts: list[Any], s: Any, axes: tuple[int, ...], inside: list[Any]
) -> AttentionFound:
    scores = scores_of(graph, s)
    if isinstance(scores.cap, tuple):
        raise Miss("the scores are a tanh that nothing is multiplied with")
    over = [label for axis in axes for label in scores.axes[axis % len(scores.axes)]]
    kinds = {label.kind for label in over}
    if len(kinds) != 1 or "batch" in kinds:
        raise Miss(f"the softmax at {graph.line(inside[0])} does not run over the keys")
    shared = [a for axis in scores.axes for a in axis if a.kind in kinds and a not in over]
    found = scores.axes
    for equation in reversed(layouts):
        found = scores.laid_out(graph, equation, found, "weights")
    over, shared = (list(refined((tuple(labels),), scores.parts)[0]) for labels in (over, shared))
    equations = _unique([*scores.equations, *inside, *layouts, product])
    if reason := graph.used_elsewhere(equations, [product]):
        raise Miss(reason)
    return AttentionFound(product, scores, over, shared, first, found, equations)


def _unique(equations: list[Any]) -> list[Any]:
    return list({id(e): e for e in equations}.values())
