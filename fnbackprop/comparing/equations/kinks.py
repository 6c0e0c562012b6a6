"""Where a program stands on a kink, a jump or an edge: which equations, which elements, which slope is taken there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.avals import aval_of, is_inexact, operand_avals, output_avals
from fnbackprop.jaxprs.evaluate import bind
from fnbackprop.jaxprs.views import Call, Scan

from ..gradient_sources import automatic_vjp
from ..program import TracedProgram
from .check import CUSTOM, bind_automatic
from .walk import Location, enter, evaluate_arrays

MOST_LINES = 8
MOST_ITERATIONS = 64  # of a loop
NEAR = (
    "no equation is found exactly at a kink or a tie: if one is nearer than the steps of the differences, the gradient "
    "is that of the side on which the point lies, and no convention"
)


def _zero(x: np.ndarray) -> np.ndarray:
    return x == 0


def _whole(x: np.ndarray) -> np.ndarray:
    return x == np.floor(x)


def _half(x: np.ndarray) -> np.ndarray:
    return np.abs(x) % 1 == 0.5


def _clamped(low: np.ndarray, x: np.ndarray, high: np.ndarray) -> np.ndarray:
    return (x == low) | (x == high)


def _one(x: np.ndarray) -> np.ndarray:
    return np.abs(x) == 1


# Of each primitive: where it is not smooth, and what to call that point.
NON_SMOOTH: dict[str, tuple[Callable[..., np.ndarray], str]] = {
    "abs": (_zero, "at 0"),
    "bessel_i0e": (_zero, "at 0"),
    "sign": (_zero, "at 0"),
    "sqrt": (_zero, "at 0 (infinite slope)"),
    "rsqrt": (_zero, "at 0 (infinite)"),
    "cbrt": (_zero, "at 0 (infinite slope)"),
    "log": (_zero, "at 0 (infinite)"),
    "log1p": (lambda x: x == -1, "at -1 (infinite)"),
    "asin": (_one, "at 1 or -1 (infinite slope)"),
    "acos": (_one, "at 1 or -1 (infinite slope)"),
    "pow": (lambda x, y: x == 0, "with base 0"),
    "floor": (_whole, "at a whole number (a jump)"),
    "ceil": (_whole, "at a whole number (a jump)"),
    "round": (_half, "halfway (a jump)"),
    "max": (lambda x, y: x == y, "at a tie"),
    "min": (lambda x, y: x == y, "at a tie"),
    "clamp": (_clamped, "at a bound"),
    **{name: (lambda x, y: x == y, "at equality") for name in ("gt", "ge", "lt", "le")},
}


class Outer(NamedTuple):
    """What is around an equation: the location of the call, and the user's rule around it with its operands."""

    location: Location = Location()
    rule: Any = None
    values: list[Any] | None = None


def find_kinks(traced: TracedProgram) -> list[str]:
    """A line for each equation that is evaluated at such a point; while loops and shard_map are not entered."""
    found: dict[str, None] = {}
    _evaluate(traced.closed, [jnp.asarray(x) for x in traced.operands], Outer(), found)
    lines = list(found)
    return lines[:MOST_LINES] + ([f"... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else [])


def _evaluate(closed: Any, operands: Sequence[Any], outer: Outer, found: dict[str, None]) -> list[Any]:
    """The outputs of a jaxpr; the lines of what stands in it are added to `found`."""
    return evaluate_arrays(closed, operands, lambda equation, values: _equation(equation, values, outer, found))


def _equation(equation: Any, values: list[Any], outer: Outer, found: dict[str, None]) -> Sequence[Any]:
    name = equation.primitive.name
    outer = outer._replace(location=outer.location.at(equation))
    if name in CUSTOM:
        around = outer if outer.rule is not None else outer._replace(rule=equation, values=values)
        return _evaluate(Call.of(equation).body, values, around, found)
    entered = enter(equation, values, outer.location)
    if entered is not None:
        return _evaluate(entered[0], entered[1], outer, found)
    if name == "scan":
        _scan(equation, values, outer, found)
    outputs = bind(equation, values)
    if line := _kink(equation, values, outputs, outer):
        found[line] = None
    return outputs


def _scan(equation: Any, values: list[Any], outer: Outer, found: dict[str, None]) -> None:
    loop = Scan.of(equation)
    consts, carry, xs = loop.split(values)
    steps = range(loop.length)[::-1] if loop.reverse else range(loop.length)
    for step in steps[:MOST_ITERATIONS]:
        carry, _ = loop.split_results(_evaluate(loop.body, [*consts, *carry, *(x[step] for x in xs)], outer, found))


def _kink(equation: Any, values: list[Any], outputs: Sequence[Any], outer: Outer) -> str:
    """The line of an equation that is evaluated at a kink, a jump or an edge; empty if it is smooth there."""
    name = equation.primitive.name
    floating = [is_inexact(aval) for aval in operand_avals(equation)]
    if not any(floating):
        return ""
    if name in NON_SMOOTH and not any(np.iscomplexobj(x) for x in values):
        test, what = NON_SMOOTH[name]
        hit = np.asarray(test(*(np.asarray(x).astype(np.float64) for x in values)))
    elif name in ("reduce_max", "reduce_min"):
        axes = tuple(equation.params["axes"])
        won = np.asarray(values[0]) == np.expand_dims(np.asarray(outputs[0]), axes)
        hit, what = won & (np.sum(won, axis=axes, keepdims=True) > 1), "at a tie"
    elif name == "sort":
        key = np.moveaxis(np.asarray(outputs[0]), equation.params["dimension"], -1)
        hit, what = key[..., 1:] == key[..., :-1], "at a tie"
    else:
        return ""
    if not hit.any():
        return ""
    said = f"{name} at {outer.location.line}: {np.count_nonzero(hit)} of {hit.size} elements are {what}"
    return said + _convention(outer.rule or equation, outer.values or values, hit)


def _convention(equation: Any, values: list[Any], hit: np.ndarray) -> str:
    """The slope that the gradient takes at the first such element, where one operand has its shape."""
    positions = [i for i, x in enumerate(values) if is_inexact(aval_of(x)) and np.shape(x) == hit.shape]
    outputs = output_avals(equation)
    if not positions or len(outputs) != 1 or not is_inexact(outputs[0]):
        return ""

    def function(x):
        return bind_automatic(bind, equation, [x if i == positions[0] else v for i, v in enumerate(values)])[0]

    y, pull = automatic_vjp(function, jnp.asarray(values[positions[0]]))
    slope = np.asarray(pull(jnp.ones_like(y))[0])[hit].ravel()[0]
    return f"; the gradient takes the slope {float(slope):g} there"
