"""A `custom_vjp` function that reads references (`jax.new_ref`): a custom_vjp function of their contents.

The user's backward gives each reference the cotangent of its contents at the call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ..jaxprs.custom import custom_vjp_of_equation
from ..jaxprs.evaluate import source_line, trace_avals
from ..jaxprs.views import Call
from .reference_views import Cell, unsupported_reference


def custom_vjp_of_contents(equation: Any, values: Sequence[Any], run: Callable) -> list[Any]:
    """Evaluate a custom_vjp equation, with the user's rule.

    Args:
        values: of its operands; cells in the place of references.
        run: `run(jaxpr, consts, values)`: the outputs of a jaxpr, evaluated with cells.
    """
    custom, body = custom_vjp_of_equation(equation), Call.of(equation).body
    if equation.params["symbolic_zeros"]:
        raise unsupported_reference("in a custom_vjp function with symbolic zeros", source_line(equation))
    avals, output_avals = ([atom.aval for atom in atoms] for atoms in (equation.invars, equation.outvars))

    def read(closed, contents):
        inner = [Cell(x) if isinstance(value, Cell) else x for x, value in zip(contents, values, strict=True)]
        outputs = run(closed.jaxpr, closed.consts, inner)
        if any(isinstance(x, Cell) and x.value is not x.start for x in inner):
            raise unsupported_reference("that a custom_vjp function changes", source_line(equation))
        return outputs

    @jax.custom_vjp
    def function(*contents):
        return read(body, contents)

    def forward(*contents):
        residual_tree: Any = None

        def flat(*operands):
            nonlocal residual_tree
            outputs, residuals = custom.forward(operands, [True] * len(operands))
            leaves, residual_tree = jax.tree.flatten(residuals)
            if any(isinstance(leaf, jax.Ref) for leaf in leaves):
                raise unsupported_reference("that a custom_vjp function saves", source_line(equation))
            return [*outputs, *leaves]

        found = read(trace_avals(flat, avals), contents)
        count = len(output_avals)
        return found[:count], residual_tree.unflatten(found[count:])

    def backward(residuals, cotangents):
        return tuple(custom.backward(residuals, cotangents, output_avals))

    function.defvjp(forward, backward)
    return function(*[x.value if isinstance(x, Cell) else x for x in values])
