"""Which constants of a batched loop's body hold one row for each example, as far as its equations tell.

JAX batches a constant along any of its axes, or not at all, and does not write down which. But the first axes of every
carry count the examples, and so do those of the values that are computed from a carry row by row. A constant that meets
such a value in an elementwise operation, or in a product batched along these axes, holds rows as well; and if all its
uses are such, then no example reads another's row.
"""

from typing import Any

from ...jaxprs.evaluate import bind, interpret, trace_avals
from ...jaxprs.types import Equation, is_effect_free, is_var
from ...jaxprs.views import Call
from .example_axes import axes_after


def constants_with_rows(body: Any, num_consts: int, batch_shape: tuple[int, ...]) -> tuple[bool, ...]:
    """Of each of the first operands of `body`, whether it surely has one row for each example.

    batch_shape: the shape of the first axes of the other operands, the carry, and of the results.
    """
    jaxpr = _inlined(body).jaxpr
    consts, carry = jaxpr.invars[:num_consts], jaxpr.invars[num_consts:]
    varied, with_rows = set(carry), set(carry)  # what depends on a carry; and for what is known that it has rows
    for equation in jaxpr.eqns:
        operands = [(i, v) for i, v in enumerate(equation.invars) if is_var(v)]
        if any(v in varied for _, v in operands):
            varied.update(equation.outvars)
        if any(v in with_rows and _keeps_rows(equation, i, batch_shape) for i, v in operands):
            with_rows.update(equation.outvars)
    shared = set()  # what is not known to be read row by row alone
    for equation in reversed(jaxpr.eqns):
        by_row = all(v in with_rows or v not in varied and v not in shared for v in equation.outvars)
        for i, v in enumerate(equation.invars):
            if is_var(v) and not (by_row and _keeps_rows(equation, i, batch_shape)):
                shared.add(v)
    return tuple(v.aval.shape[: len(batch_shape)] == batch_shape and v not in shared for v in consts)


def _keeps_rows(equation: Equation, position: int, batch_shape: tuple[int, ...]) -> bool:
    """Whether the first axes of an operand are those of the result: a row of the one makes a row of the other."""
    first = tuple(range(len(batch_shape)))
    shape = equation.invars[position].aval.shape
    return shape[: len(first)] == batch_shape and axes_after(equation, position, first) == first


def _inlined(body: Any) -> Any:
    """The body with its calls of jitted functions replaced by what they do."""

    def apply(equation, values):
        if equation.primitive.name != "jit":
            return bind(equation, values)
        inner = Call.of(equation).body
        return interpret(inner.jaxpr, inner.consts, values, apply)

    def inlined(*operands):
        return interpret(body.jaxpr, body.consts, operands, apply)

    return trace_avals(inlined, [v.aval for v in body.jaxpr.invars]) if is_effect_free(body) else body
