"""The scores of an attention, followed back from the softmax to the product of queries and keys."""

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any

from .axes import CASTS, LAYOUTS, Axes, Axis, Label, axis_of, carried, keeps_values, refined, splits
from .graph import Graph
from .hiding import LOW, Replaced, band_of_numbers, conditions, hides, peeled, replaced_by_numbers, sees_itself


class Miss(Exception):
    """Why something that looks like attention is not run as the block."""


@dataclass
class Aligned:
    """A mask, bias or factor: a value, and which axis of the scores each of its axes is.

    inverted: a mask that is True where nothing is seen. factors: what a bias is multiplied with. power: of a factor.
    line: where the user wrote it.
    """

    atom: Any
    axes: Axes
    inverted: bool = False
    factors: list[tuple[Any, int]] = field(default_factory=list)
    power: int = 1
    line: str = ""


@dataclass
class Hiding:
    """Where keys are hidden, by a `where` or by a bias that is added.

    low: the highest score that a hidden key has; -inf for a bias that stays one. chosen: whether by a `where`.
    sees_itself: whether each query still sees the key at its own position.
    """

    low: float
    chosen: bool
    sees_itself: bool


@dataclass
class Scores:
    """What the scores are made of.

    product: the equation q kᵀ. axes: of the scores. equations: that are matched. factors: pairs (rank-0 atom, power 1
    or -1) that the scores are multiplied with. arrays: that they are multiplied with. cap: of the soft-cap, with the
    number that was multiplied before it. hidings: in the order of the program. parts: of axes that were split.
    """

    product: Any
    axes: Axes
    equations: list[Any]
    factors: list[tuple[Any, int]] = field(default_factory=list)
    arrays: list[Aligned] = field(default_factory=list)
    cap: float | None = None
    masks: list[Aligned] = field(default_factory=list)
    biases: list[Aligned] = field(default_factory=list)
    hidings: list[Hiding] = field(default_factory=list)
    parts: dict[Label, Axis] = field(default_factory=dict)

    def laid_out(self, graph: Graph, equation: Any, axes: Axes, what: str) -> Axes:
        """The axes of what an equation lays out anew; one that it splits, is then split everywhere."""
        found = carried(equation, axes)
        if found is None and equation.primitive.name == "reshape":
            if parts := splits(axes, equation.outvars[0].aval.shape):
                self.parts |= parts
                self.axes = refined(self.axes, parts)
                for aligned in (*self.masks, *self.biases, *self.arrays):
                    aligned.axes = refined(aligned.axes, parts)
                found = carried(equation, refined(axes, parts))
        if found is None:
            name, line = equation.primitive.name, graph.line(equation)
            raise Miss(f"the {what} pass through {name} at {line}, which mixes their axes")
        return found

    def hide(self, new: Hiding, line: str) -> None:
        """Raises Miss where a row may see no key by several hidings together, whose scores then still differ."""
        self.hidings.append(new)
        alike = len({hiding.low for hiding in self.hidings}) == 1 and all(hiding.chosen for hiding in self.hidings)
        if len(self.hidings) > 1 and not alike and not all(hiding.sees_itself for hiding in self.hidings):
            raise Miss(
                f"keys are hidden at {line} and before it: a row that sees none by both has not the same weight for all"
            )


def scores_of(graph: Graph, atom: Any) -> Scores:
    """The scores that a value holds. Raises Miss with the reason if it holds none."""
    equation = graph.made_by(atom)
    if equation is None:
        raise Miss("the scores are no product of two arrays in the same function")
    name = equation.primitive.name
    if name == "dot_general":
        return Scores(equation, product_axes(equation), [equation])
    if (name in LAYOUTS and len(equation.invars) == 1) or (name in CASTS and keeps_values(equation)):
        scores = scores_of(graph, equation.invars[0])
        scores.axes = scores.laid_out(graph, equation, scores.axes, "scores")
    elif name in ("mul", "div"):
        scores = _scaled(graph, equation)
    elif name in ("add", "sub"):
        scores = _biased(graph, equation)
    elif name == "select_n":
        scores = _masked(graph, equation)
    elif name == "tanh":
        scores = scores_of(graph, equation.invars[0])
        scores.cap = _capped(graph, scores, equation)
    else:
        raise Miss(f"the scores pass through {name} at {graph.line(equation)}")
    scores.equations.append(equation)
    return scores


def product_axes(equation: Any) -> Axes:
    """The axes of a product: those of the batch, the free ones of its left operand, those of its right one."""
    contracted, batched = equation.params["dimension_numbers"]
    left, right = (atom.aval.shape for atom in equation.invars)
    labels = [Label("batch", i, left[axis]) for i, axis in enumerate(batched[0])]
    for kind, shape, gone in (
        ("left", left, (contracted[0], batched[0])),
        ("right", right, (contracted[1], batched[1])),
    ):
        labels += [Label(kind, i, n) for i, n in enumerate(shape) if i not in gone[0] and i not in gone[1]]
    return tuple(map(axis_of, labels))


def _scaled(graph: Graph, equation: Any) -> Scores:
    x, y = equation.invars
    power = 1 if equation.primitive.name == "mul" else -1
    if power == 1 and graph.scalar(x) is not None:
        x, y = y, x
    factor = graph.scalar(y)
    if factor is None:
        return _multiplied(graph, equation, power)
    scores = scores_of(graph, x)
    if isinstance(scores.cap, tuple):  # c tanh(s / c)
        before, number = scores.cap, graph.number(factor)
        if number is None or power != 1:
            raise Miss(f"the soft-cap at {graph.line(equation)} is not a number that the program says")
        scores.factors = [(before[0] * number, 1)]
        scores.cap = number
        return scores
    scores.factors = scores.factors if scores.cap is not None else [*scores.factors, (factor, power)]
    if scores.cap is not None:
        raise Miss(f"the scores are scaled after their soft-cap, at {graph.line(equation)}")
    number = graph.number(factor)
    if number is not None and not (0 < abs(number) < math.inf):
        raise Miss(f"the scores are multiplied with or divided by {number:g} at {graph.line(equation)}")
    if scores.masks:
        if number is None or not number > 0:
            raise Miss(f"masked scores are multiplied at {graph.line(equation)} with what may not be positive")
        for hiding in scores.hidings:
            hiding.low *= number**power
        highest = max(hiding.low for hiding in scores.hidings)
        if not highest <= LOW:
            raise Miss(f"masked scores become {highest:g} at {graph.line(equation)}, which is not below {LOW:g}")
    for bias in scores.biases:
        bias.factors.append((factor, power))
    return scores


def _multiplied(graph: Graph, equation: Any, power: int) -> Scores:
    """Scores times an array, of heads or queries, for one."""
    x, y = equation.invars
    for chain, other in ((x, y), (y, x))[: 1 + (power == 1)]:
        with contextlib.suppress(Miss):
            scores = scores_of(graph, chain)
            changed = scores.cap is not None or scores.masks or scores.biases
            if chain.aval.shape == equation.outvars[0].aval.shape and not changed:
                line = graph.line(equation)
                scores.arrays.append(Aligned(*peeled(graph, other, scores.axes), power=power, line=line))
                return scores
    raise Miss(f"the scores are multiplied with an array at {graph.line(equation)}")


def _capped(graph: Graph, scores: Scores, equation: Any) -> Any:
    """What the scores are multiplied with before tanh, until the factor after it is known."""
    numbers = [(graph.number(f) if not isinstance(f, float) else f, power) for f, power in scores.factors]
    if scores.biases or scores.masks or scores.cap is not None or any(n is None for n, _ in numbers):
        raise Miss(f"the soft-cap at {graph.line(equation)} is not the usual one, of the scaled scores alone")
    scale = 1.0
    for number, power in numbers:
        scale *= number**power
    return (scale,)


def _biased(graph: Graph, equation: Any) -> Scores:
    """Scores plus an array. Which operand is the scores, is found by trying both."""
    if (replaced := replaced_by_numbers(graph, equation)) is not None:
        return _replaced(graph, equation, replaced)
    x, y = equation.invars
    tries = ((x, y),) if equation.primitive.name == "sub" else ((x, y), (y, x))
    reasons = []
    for chain, other in tries:
        try:
            if chain.aval.shape != equation.outvars[0].aval.shape:
                raise Miss(f"the scores are broadcast at {graph.line(equation)}")
            scores = scores_of(graph, chain)
        except Miss as miss:
            reasons.append(miss)
            continue
        if isinstance(scores.cap, tuple):
            raise Miss(f"the soft-cap at {graph.line(equation)} is not the usual one, of the scaled scores alone")
        if (band := band_of_numbers(graph, other, scores.axes)) is not None and equation.primitive.name == "add":
            scores.masks.append(Aligned(*band))
            scores.hide(Hiding(LOW, False, True), graph.line(equation))
            return scores
        if any(hiding.chosen and not hiding.sees_itself for hiding in scores.hidings):
            raise Miss(f"a bias is added after a mask at {graph.line(equation)}: it weighs rows that see no key")
        if hides(graph, other):
            scores.hide(Hiding(-math.inf, False, False), graph.line(equation))
        sign = [(-1.0, 1)] if equation.primitive.name == "sub" else []
        scores.biases.append(Aligned(*peeled(graph, other, scores.axes), factors=sign))
        return scores
    raise max(reasons, key=lambda miss: "pass through" in str(miss))


def _replaced(graph: Graph, equation: Any, replaced: Replaced) -> Scores:
    """scores · b + low (1 - b)."""
    scores = scores_of(graph, replaced.scores)
    if isinstance(scores.cap, tuple):
        raise Miss(f"scores are masked within a soft-cap at {graph.line(equation)}")
    scores.hide(Hiding(replaced.low, True, sees_itself(graph, replaced.seen)), graph.line(equation))
    scores.masks.append(Aligned(*peeled(graph, replaced.seen, scores.axes)))
    scores.equations.append(replaced.product)
    return scores


def _masked(graph: Graph, equation: Any) -> Scores:
    """where(mask, scores, low), or where(hidden, low, scores)."""
    if len(equation.invars) != 3:
        raise Miss(f"the scores are chosen among several at {graph.line(equation)}")
    which, if_false, if_true = equation.invars
    fill, chain = (if_false, if_true) if graph.number(if_false) is not None else (if_true, if_false)
    number = graph.number(fill)
    if number is None:
        raise Miss(f"where a score is masked at {graph.line(equation)}, an array takes its place")
    if not number <= LOW:
        raise Miss(f"masked scores are set to {number:g} at {graph.line(equation)}, which is not below {LOW:g}")
    scores = scores_of(graph, chain)
    if isinstance(scores.cap, tuple):
        raise Miss(f"scores are masked within a soft-cap at {graph.line(equation)}")
    inverted = chain is if_false
    if which.aval.shape != chain.aval.shape:
        raise Miss(f"the mask at {graph.line(equation)} is one number")
    parts = conditions(graph, which, scores.axes, inverted)
    seen = not inverted and all(sees_itself(graph, part) for part, _ in parts)
    scores.hide(Hiding(number, True, seen), graph.line(equation))
    scores.masks += [Aligned(*peeled(graph, part, scores.axes, axes), inverted) for part, axes in parts]
    return scores
