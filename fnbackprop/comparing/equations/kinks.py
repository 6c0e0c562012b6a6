"""Where a program stands on a kink, a jump or an edge: which equations, which elements, which slope is taken there."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.avals import aval_of, is_inexact, operand_avals, output_avals
from fnbackprop.jaxprs.compat import branch_platforms, scan_groups
from fnbackprop.jaxprs.evaluate import bind, read_array, source_line
from fnbackprop.jaxprs.types import close_jaxpr

from ..program import TracedProgram
from .check import CUSTOM

MOST_LINES = 8
MOST_ITERATIONS = 64  # of a loop
CALLS = ("jit", "closed_call", "core_call", "eval_jaxpr", "remat2", *CUSTOM)


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


# Of each primitive: where it is not smooth, and what to call that location.
NON_SMOOTH: dict[str, tuple[Callable[..., np.ndarray], str]] = {
    "abs": (_zero, "at 0"),
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
    """What is around an equation: the line of the call, and the user's rule that takes its place, with its operands."""

    line: str = ""
    rule: Any = None
    values: list[Any] | None = None


def find_kinks(traced: TracedProgram) -> list[str]:
    """A line for each equation that stands on such a point; what cannot be walked is left out."""
    found: dict[str, None] = {}
    for line in _walk(traced.closed, [jnp.asarray(x) for x in traced.operands], Outer(), []):
        found[line] = None
    lines = list(found)
    return lines[:MOST_LINES] + ([f"... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else [])


def _walk(closed: Any, operands: Sequence[Any], outer: Outer, results: list[Any]) -> Iterator[str]:
    """The lines of a jaxpr, whose outputs are left in `results`."""
    closed = close_jaxpr(closed)
    jaxpr = closed.jaxpr
    env = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, operands, strict=True))
    for equation in jaxpr.eqns:
        values = [read_array(env, atom) for atom in equation.invars]
        outputs: list[Any] = []
        yield from _equation(equation, values, outer, outputs)
        env.update(zip(equation.outvars, outputs, strict=True))
    results += [read_array(env, atom) for atom in jaxpr.outvars]


def _equation(equation: Any, values: list[Any], outer: Outer, outputs: list[Any]) -> Iterator[str]:
    name, params = equation.primitive.name, equation.params
    outer = outer._replace(line=source_line(equation) or outer.line)
    if name in CALLS:
        around = outer._replace(rule=equation, values=values) if name in CUSTOM and outer.rule is None else outer
        yield from _walk(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"], values, around, outputs)
        return
    if name == "cond" and branch_platforms(equation) is None:
        taken = int(np.clip(int(values[0]), 0, len(params["branches"]) - 1))
        yield from _walk(params["branches"][taken], values[1:], outer, outputs)
        return
    if name == "scan":
        yield from _scan(equation, values, outer)
    outputs += bind(equation, values)
    yield from _places(equation, values, outputs, outer)


def _scan(equation: Any, values: list[Any], outer: Outer) -> Iterator[str]:
    params, groups = equation.params, scan_groups(equation)
    first = groups.consts + groups.carry
    consts, carry, xs = values[: groups.consts], values[groups.consts : first], values[first:]
    steps = list(range(params["length"]))
    for step in (steps[::-1] if params["reverse"] else steps)[:MOST_ITERATIONS]:
        results: list[Any] = []
        yield from _walk(params["jaxpr"], [*consts, *carry, *(x[step] for x in xs)], outer, results)
        carry = results[: groups.carry]


def _places(equation: Any, values: list[Any], outputs: list[Any], outer: Outer) -> Iterator[str]:
    name = equation.primitive.name
    floating = [is_inexact(aval) for aval in operand_avals(equation)]
    if not any(floating):
        return
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
        return
    if hit.any():
        said = f"{name} at {outer.line}: {np.count_nonzero(hit)} of {hit.size} elements are {what}"
        yield said + _convention(outer.rule or equation, outer.values or values, hit)


def _convention(equation: Any, values: list[Any], hit: np.ndarray) -> str:
    """The slope that the gradient takes at the first such element, where one operand has its shape."""
    positions = [i for i, x in enumerate(values) if is_inexact(aval_of(x)) and np.shape(x) == hit.shape]
    outputs = output_avals(equation)
    if not positions or len(outputs) != 1 or not is_inexact(outputs[0]):
        return ""

    def function(x):
        return bind(equation, [x if i == positions[0] else v for i, v in enumerate(values)])[0]

    y, pull = jax.vjp(function, jnp.asarray(values[positions[0]]))
    slope = np.asarray(pull(jnp.ones_like(y))[0])[hit].ravel()[0]
    return f"; the gradient takes the slope {float(slope):g} there"
