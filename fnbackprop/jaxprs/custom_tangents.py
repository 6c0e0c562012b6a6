"""The tangents of custom_vjp functions (`custom_lin`) in a user's JVP that calls `jax.jvp` on one.

Each is a linear map of which only the transpose is known, the user's backward, so nothing can evaluate it. But a JVP is
run at tangents of zero alone, where it is zero. So each such map becomes a function that loops, branches and
checkpoints can run as they run any other: zero, with the user's backward as its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

from .avals import output_avals, zeros_like_aval
from .custom import custom_linear_map
from .evaluate import bind, interpret, trace_avals
from .graph import descendants, fixpoint, holds, reads_any, with_inner_jaxprs
from .lists import split
from .types import Aval, ClosedJaxpr, Equation, Jaxpr, is_var
from .views import Scan, While


def at_zero_tangents(closed: ClosedJaxpr, tangents: Sequence[bool]) -> ClosedJaxpr:
    """A JVP with the maps that these operands reach so replaced; it is the same object if it holds none.

    One that only other tangents reach, such as the ones of `jax.jvp(f, (x,), (1.0,))`, stays: it is not zero."""
    return _replaced(closed, tuple(tangents)) if holds(closed, ("custom_lin",)) else closed


def _replaced(closed: ClosedJaxpr, tangents: tuple[bool, ...]) -> ClosedJaxpr:
    jaxpr = closed.jaxpr
    reached = _reached(jaxpr, tangents)

    def apply(equation: Equation, values: list[Any]) -> Sequence[Any]:
        if not reads_any(equation, reached):
            return bind(equation, values)
        if equation.primitive.name == "custom_lin":
            return _zero_with_transpose(equation)(*values)
        flags = [is_var(atom) and atom in reached for atom in equation.invars]
        return bind(with_inner_jaxprs(equation, lambda body: _inside(equation, body, flags)), values)

    def function(*operands: Any) -> list[Any]:
        return interpret(jaxpr, closed.consts, operands, apply)

    return trace_avals(function, [v.aval for v in jaxpr.invars])


def _reached(jaxpr: Jaxpr, flags: Sequence[bool]) -> set[Any]:
    return descendants(jaxpr.eqns, [v for v, on in zip(jaxpr.invars, flags, strict=True) if on])


def _inside(equation: Equation, body: ClosedJaxpr, flags: list[bool]) -> ClosedJaxpr:
    """An inner jaxpr, whose operands are the last ones of its equation; those that are reached have a flag. A loop's
    carry is reached at all steps if it is at one."""
    if not holds(body, ("custom_lin",)):
        return body
    flags = flags[len(flags) - len(body.jaxpr.invars) :]
    if equation.primitive.name in ("scan", "while"):
        sizes = Scan.of(equation)[1:3] if equation.primitive.name == "scan" else While.of(equation)[3:]
        consts, carry, xs = split(flags, *sizes, *[len(equation.outvars)] * (2 - len(sizes)))

        def step(carry: tuple[bool, ...]) -> list[bool]:
            reached = _reached(body.jaxpr, [*consts, *carry, *xs])
            return [is_var(atom) and atom in reached for atom in body.jaxpr.outvars[: len(carry)]]

        flags = [*consts, *fixpoint(step, carry), *xs]
    return _replaced(body, tuple(flags))


def _zero_with_transpose(equation: Equation) -> Callable:
    custom, avals, symbolic = custom_linear_map(equation), output_avals(equation), equation.params["symbolic_zeros"]

    @jax.custom_vjp
    def zero(*operands: Any) -> list[Any]:
        return _zeros(avals)

    def forward(*operands: Any) -> tuple[list[Any], list[Any]]:
        residuals = operands[: custom.residuals]
        return _zeros(avals), [r.value for r in residuals] if symbolic else list(residuals)

    def backward(residuals: list[Any], cotangents: list[Any]) -> tuple[Any, ...]:
        cts = [None if isinstance(ct, SymbolicZero) else ct for ct in cotangents]
        return (*[None] * custom.residuals, *custom.backward(residuals, cts, avals))

    zero.defvjp(forward, backward, symbolic_zeros=symbolic)
    return zero


def _zeros(avals: Sequence[Aval]) -> list[Any]:
    return [zeros_like_aval(aval) for aval in avals]
