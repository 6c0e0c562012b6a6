"""A sum of a product of arrays in a jaxpr: `jnp.sum(x * y * w)`, or a product that sums over axes of both operands."""

import math
from typing import Any, NamedTuple

from .axes import CASTS, Axis
from .graph import Graph


class Factor(NamedTuple):
    """A factor of a product of arrays. places: which axis of the product each of its axes is."""

    atom: Any
    places: tuple[int, ...]

    def axes_from(self, graph: Graph, base: Any) -> dict[int, Axis] | None:
        """Which axes of an array that it is laid out from each axis of the product is."""
        axes = graph.axes_from(self.atom, base)
        return None if axes is None else dict(zip(self.places, axes, strict=True))


class SumOfProduct(NamedTuple):
    """number Σ Π factors over the axes `summed` of the product; the result has the axes `kept`, in this order."""

    number: float
    factors: list[Factor]
    summed: tuple[int, ...]
    kept: tuple[int, ...]
    equations: list[Any]


def sum_of_product(graph: Graph, equation: Any) -> SumOfProduct | None:
    """Of `reduce_sum`, or of a product with no axis of one operand alone."""
    match equation.primitive.name:
        case "reduce_sum":
            places, summed = tuple(range(equation.invars[0].aval.ndim)), tuple(map(int, equation.params["axes"]))
            kept, operands = tuple(i for i in places if i not in summed), [(equation.invars[0], places)]
        case "dot_general":
            contracted, batched = equation.params["dimension_numbers"]
            sides = [(*batched[side], *contracted[side]) for side in (0, 1)]
            if any(len(axes) != x.aval.ndim for axes, x in zip(sides, equation.invars, strict=True)):
                return None
            operands = [
                (x, tuple(axes.index(i) for i in range(len(axes))))
                for axes, x in zip(sides, equation.invars, strict=True)
            ]
            kept = tuple(range(len(batched[0])))
            summed = tuple(range(len(kept), len(sides[0])))
        case _:
            return None
    number, factors, equations = 1.0, [], [equation]
    for atom, places in operands:
        own, atoms, more = _factors(graph, atom, whole=True)
        number *= own
        factors += [Factor(x, places if x.aval.ndim else ()) for x in atoms]
        equations += more
    one = len(factors) < 2 or not math.isfinite(number)
    return None if one else SumOfProduct(number, factors, summed, kept, equations)


def _uncast(graph: Graph, atom: Any) -> tuple[list[Any], Any]:
    """The equations that only cast a value, and what they begin with."""
    found = []
    while (equation := graph.named(atom, *CASTS)) is not None:
        found.append(equation)
        (atom,) = equation.invars
    return found, atom


def _factors(graph: Graph, atom: Any, whole: bool = False) -> tuple[float, list[Any], list[Any]]:
    """The number, the other factors, and the equations of a product of arrays. A part that others read too is none."""
    if (number := graph.number(atom)) is not None:
        return number, [], []
    casts, base = _uncast(graph, atom)
    equation = graph.named(base, "mul", "neg", "div")
    shared = not whole and any(len(graph.readers.get(x, ())) > 1 for x in (atom, base))
    if equation is None or shared:
        return 1.0, [atom], []
    sign, operands = (-1.0 if equation.primitive.name == "neg" else 1.0), equation.invars
    if equation.primitive.name == "div":
        divisor = graph.number(operands[1])
        if not divisor:
            return 1.0, [atom], []
        sign, operands = 1 / divisor, operands[:1]
    parts = [_factors(graph, operand) for operand in operands]
    numbers, atoms, equations = zip(*parts, strict=True)
    return sign * math.prod(numbers), sum(atoms, []), sum(equations, [*casts, equation])
