"""A jaxpr as a graph of values."""

from typing import Any

from jax.extend import core


def inner_jaxprs(equation: Any) -> list[Any]:
    """The jaxprs among an equation's parameters (bodies, branches), as closed or open jaxprs."""
    return list(core.jaxprs_in_params(equation.params))
