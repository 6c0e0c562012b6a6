"""`chain_rule`: the gradient of a scalar program as what it is, a product of local derivatives."""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..columns import aligned
from ..pages import document
from .pipeline import trace
from .records import Place, Record, Seen
from .show.graph import derivative_text, graph_svg, number_text

MOST_PATHS = 6  # whose products are written out


class Step(NamedTuple):
    """One equation of a scalar program.

    Attributes:
      place: the user's line. primitive: what it computes. value: the number it gave.
      derivatives: of that number by each operand that the gradient flows to; NaN, printed as "?", where a cotangent of
        zero does not tell.
      cotangent: the derivative of the program's value by this number.
      operands: where each of these operands comes from: the position of a step, or the path of an argument.
    """

    place: Place
    primitive: str
    value: float
    derivatives: tuple[float, ...]
    cotangent: float
    operands: tuple[int | str, ...]


class ChainRule(NamedTuple):
    """A scalar program's steps in the order of the forward pass, and its gradients by the paths of the arguments."""

    steps: tuple[Step, ...]
    gradients: dict[str, float]

    @property
    def is_chain(self) -> bool:
        """Whether there is one path alone from the value to the argument, so that the gradient is one product."""
        return len(self.gradients) == 1 and all(len(step.derivatives) == 1 for step in self.steps)

    @property
    def product(self) -> str:
        """The product from the value back to the argument, like "2 × 4 = 8"; of a few paths, the sum of their products;
        of many, the gradients alone."""
        if not self.is_chain:
            return "\n".join(f"d value / d {name} = {self._sum_over_paths(name)}" for name in self.gradients)
        (gradient,) = self.gradients.values()
        if not self.steps and not gradient:
            return "0: the value does not depend on it"
        factors = [derivative_text(step.derivatives[0]) for step in reversed(self.steps)]
        return f"{' × '.join(factors) or '1'} = {number_text(gradient)}"

    def _sum_over_paths(self, name: str) -> str:
        """Like "3 × 2 + 0.5 × 2 = 7": a product for each path from the value back to an argument, and the gradient."""
        gradient, counts = self.gradients[name], dict[int | str, int]({name: 1})
        for i, step in enumerate(self.steps):
            counts[i] = sum(counts.get(source, 0) for source in step.operands)
        last = len(self.steps) - 1
        if not 0 < counts.get(last, 0) <= MOST_PATHS:
            return number_text(gradient)

        def back(at: int | str) -> Iterator[tuple[float, ...]]:
            if at == name:
                yield ()
            elif isinstance(at, int) and counts[at]:
                for source, derivative in zip(self.steps[at].operands, self.steps[at].derivatives, strict=True):
                    yield from ((derivative, *rest) for rest in back(source))

        products = [" × ".join(map(derivative_text, factors)) for factors in back(last)]
        return f"{' + '.join(products)} = {number_text(gradient)}"

    def __str__(self) -> str:
        head = ("line", "equation", "value", "local derivative", "cotangent")
        rows = [head, *(_cells(step, self.steps) for step in self.steps)]
        return "\n".join([*aligned(rows), self.product, *self._zero_times_infinity()])

    def _zero_times_infinity(self) -> list[str]:
        """Of the first step back whose infinite derivative met a cotangent of zero: that this is why there is NaN."""
        met = (s for s in reversed(self.steps) if s.cotangent == 0 and math.inf in s.derivatives)
        return [
            f"0 × inf is no number: the derivative of {s.primitive} at {s.place} is infinite, and its cotangent is 0"
            for s in met
        ][:1]

    def html(self, path: str | Path | None = None) -> str:
        """The graph of the steps, with each local derivative on its edge, and the table, as a page that needs no other
        file. Returned, and written to `path` if given."""
        written = document("the chain rule", self._repr_html_())
        if path is not None:
            Path(path).write_text(written, encoding="utf-8")
        return written

    def _repr_html_(self) -> str:
        return f"{graph_svg(self)}\n<pre>{escape(str(self))}</pre>"


def chain_rule(fun: Callable, *args: Any, argnums: int | tuple[int, ...] = 0) -> ChainRule:
    """The chain rule of a program of scalars, number by number: print what is returned.

    Args:
      fun: a function of real numbers that gives one. In it, all is scalar.
      *args: its arguments, numbers.
      argnums: the position or positions of those to differentiate.

    Returns:
      a ChainRule: every equation's value, local derivative and cotangent, and their product.
    Raises:
      TypeError: a value in the program is an array of more than one element; the message has its line.

    Example:
      The car is twice as fast as the bicycle, the bicycle four times as fast as the walker.

      >>> import fnbackprop as fb
      >>> fb.chain_rule(lambda walker: 2.0 * (4.0 * walker), 1.0).product
      '2 × 4 = 8'
    """
    found = trace(fun, *args, argnums=argnums, detailed=True)
    records = [r for r in found.records if not r.entered and r.cotangents]
    positions: dict[Any, int | str] = {r.number: i for i, r in enumerate(records)}
    steps = [_step(r, positions) for r in records]
    gradients = {name: float(np.asarray(g)) for name, g in found.gradients.items()}
    return ChainRule(tuple(steps), gradients)


def _step(record: Record, positions: dict[Any, int | str]) -> Step:
    if len(record.cotangents) > 1:
        raise TypeError(f"chain_rule writes each equation once, but {record.primitive} at {record.place} is in a loop.")
    (value,), (cotangent,) = _numbers(record, record.values[0]), _numbers(record, record.cotangents[0])
    terms = _numbers(record, record.passed_on[0])
    return Step(
        record.place,
        record.primitive,
        value,
        tuple(_derivative(term, cotangent) for term in terms),
        cotangent,
        tuple(positions.get(source, str(source)) for source in (record.made_of[i] for i in record.targets)),
    )


def _derivative(term: float, cotangent: float) -> float:
    """The local derivative, of the term that it made of a cotangent; NaN if that does not tell it. Zero times a finite
    number is zero: what made NaN of a cotangent of zero was infinite."""
    if cotangent == 0:
        return math.inf if math.isnan(term) else math.nan
    return term / cotangent


def _numbers(record: Record, seen: Seen) -> list[float]:
    """The numbers themselves: of one element, the smallest is the element."""
    known = [s for s in seen.of if s is not None]
    if any(s.size != 1 for s in known):
        raise TypeError(f"chain_rule is for scalars, but {record.primitive} at {record.place} gives {record.shapes}.")
    return [{"nan": math.nan, "inf": math.inf}.get(s.bad, s.low) for s in known]


def _cells(step: Step, steps: Sequence[Step]) -> tuple[str, ...]:
    """A row of the table; of several operands, it says by which each derivative is."""
    local = list(map(derivative_text, step.derivatives))
    if len(local) > 1:
        names = (source if isinstance(source, str) else steps[source].primitive for source in step.operands)
        local = [f"{derivative} by {name}" for derivative, name in zip(local, names, strict=True)]
    return str(step.place), step.primitive, number_text(step.value), ", ".join(local), number_text(step.cotangent)
