"""What hides keys from a query, in a jaxpr: masks of `where`, low numbers that are added, masks of 0 and 1."""

from typing import Any, NamedTuple

from ...jaxprs.types import is_var
from .axes import CASTS, LAYOUTS, Axes, Label
from .graph import Graph
from .positions import Band, position_of

LOW = -1e4  # a score below it has no weight beside any usual one


def peeled(graph: Graph, atom: Any, scores_axes: Axes, axes: Axes | None = None) -> tuple[Any, Axes]:
    """An array that is broadcast to the scores, before it is: the smaller one, and its axes."""
    axes = scores_axes if axes is None else axes
    if len(axes) == atom.aval.ndim:  # an axis of size 1 may be broadcast implicitly
        axes = tuple(() if size == 1 else axis for axis, size in zip(axes, atom.aval.shape, strict=True))
    while is_var(atom) and (equation := graph.named(atom, "broadcast_in_dim")) is not None:
        (small,), out = equation.invars, atom.aval.shape
        places = equation.params["broadcast_dimensions"]
        if not is_var(small):
            break
        axes = tuple(axes[j] if small.aval.shape[i] == out[j] else () for i, j in enumerate(places))
        atom = small
    return atom, axes


def sees_itself(graph: Graph, which: Any) -> bool:
    """Whether a mask is a band about the diagonal."""
    band = position_of(graph, which)
    return isinstance(band, Band) and (band.left or 0) <= 0 <= (0 if band.right is None else band.right)


def hides(graph: Graph, bias: Any) -> bool:
    """Whether a bias is made of a low number: chosen for some keys, or multiplied with a mask of numbers."""
    bias = _base(graph, bias)
    made = graph.named(bias, "select_n", "mul")
    numbers = [] if made is None else [graph.number(atom) for atom in made.invars]
    return any(number is not None and abs(number) >= -LOW for number in numbers)


def conditions(graph: Graph, atom: Any, axes: Axes, inverted: bool) -> list[tuple[Any, Axes]]:
    """A mask as masks that must all hold."""
    conjunction = None if inverted else graph.named(atom, "and")
    if conjunction is None:
        return [(atom, axes)]
    return [pair for x in conjunction.invars for pair in conditions(graph, x, axes, False)]


def band_of_numbers(graph: Graph, atom: Any, axes: Axes) -> tuple[Any, Axes] | None:
    """where(causal, 0, low), which is added, as a mask: where every row sees something, it says the same."""
    atom, axes = peeled(graph, atom, axes)
    while (cast := graph.named(atom, *CASTS)) is not None:
        atom, axes = peeled(graph, cast.invars[0], axes)
    equation = graph.named(atom, "select_n")
    if equation is None or len(equation.invars) != 3:
        return None
    which, if_false, if_true = equation.invars
    numbers = graph.number(if_false), graph.number(if_true)
    if not sees_itself(graph, which) or numbers[1] != 0 or numbers[0] is None or not numbers[0] <= LOW:
        return None
    return peeled(graph, which, axes)


class Replaced(NamedTuple):
    """scores · b + low (1 - b), with b of 0 and 1: the scores, b, low, and the equation scores · b."""

    scores: Any
    seen: Any
    low: float
    product: Any


def replaced_by_numbers(graph: Graph, equation: Any) -> Replaced | None:
    """As GPT-2 masks its scores: the same as where(b, scores, low)."""
    x, y = equation.invars
    sign, pairs = (-1, ((x, y),)) if equation.primitive.name == "sub" else (1, ((x, y), (y, x)))
    for chain, other in pairs:
        product = graph.named(chain, "mul")
        for scores, seen in () if product is None else (product.invars, product.invars[::-1]):
            if scores.aval.shape == chain.aval.shape and _is_zero_or_one(graph, seen):
                low = sign * _low_elsewhere(graph, other, seen, chain.aval.shape)
                if low <= LOW:
                    return Replaced(scores, seen, low, product)
    return None


def _is_zero_or_one(graph: Graph, atom: Any) -> bool:
    return is_var(atom) and (_base(graph, atom).aval.dtype == bool or isinstance(position_of(graph, atom), Band))


def _low_elsewhere(graph: Graph, atom: Any, seen: Any, shape: tuple[int, ...]) -> float:
    """The number n of n (1 - b), or of n (b - 1) with its sign turned; 0 if it is none."""
    own = tuple((Label("own", i, size),) for i, size in enumerate(shape))
    atom, axes = peeled(graph, atom, own)
    product = graph.named(atom, "mul")
    for factor, rest in () if product is None else (product.invars, product.invars[::-1]):
        number = graph.number(factor)
        if number is None or not is_var(rest):
            continue
        rest, rest_axes = peeled(graph, rest, axes)
        difference = graph.named(rest, "sub")
        invars = () if difference is None else tuple(difference.invars)
        for sign, one, same in ((1, *invars), (-1, *invars[::-1])) if invars else ():
            if graph.number(one) == 1 and peeled(graph, same, rest_axes) == peeled(graph, seen, own):
                return sign * number
    return 0.0


def _base(graph: Graph, atom: Any) -> Any:
    """What a value is laid out and cast from."""
    while (passed := graph.named(atom, *CASTS, *LAYOUTS)) is not None and len(passed.invars) == 1:
        atom = passed.invars[0]
    return atom
