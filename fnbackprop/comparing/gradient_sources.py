"""Where a gradient comes from: the manual backward (ours) or the automatic one (JAX's).

This is the one place that asks JAX for a gradient, as the thing compared with.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnbackprop.backprop.transforms import value_and_grad
from fnbackprop.jaxprs.compat import quick_compilation

from .program import Program

BACKWARDS: dict[str, Callable] = {"manual": value_and_grad, "automatic": jax.value_and_grad}


def value_and_grad_by(backward: str) -> Callable:
    """`value_and_grad` by the "manual" or the "automatic" backward; both have the same signature."""
    if backward not in BACKWARDS:
        raise ValueError(f"backward must be one of {', '.join(map(repr, BACKWARDS))}, not {backward!r}.")
    return BACKWARDS[backward]


def gradient_function(program: Program, backward: str) -> Callable:
    """The compiled `(inputs, others, cotangent) -> (value, gradients)`, a gradient for each of the program's inputs.

    The value, and so the gradients, are multiplied by the cotangent; at 1 they are what they are.
    """

    def scaled(inputs, others, cotangent):
        value = program.function(inputs, others)
        return value * jnp.asarray(cotangent).astype(value.dtype)

    function = value_and_grad_by(backward)(scaled, allow_int=True)
    return jax.jit(function, compiler_options=quick_compilation())
