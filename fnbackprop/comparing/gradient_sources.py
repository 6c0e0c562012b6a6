"""Where a gradient comes from: the manual backward (ours) or the automatic one (JAX's).

This is the one place that asks JAX for a gradient, as the thing compared with. It asks for JAX's own also under
`fb.drop_in`, which puts ours in the place of `jax.vjp`: we would be compared with ourselves.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop.backprop.transforms import value_and_grad
from fnbackprop.jaxprs.avals import aval_of, is_inexact
from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.limited_loops import LimitedFunction
from fnbackprop.jaxprs.substitution import jax_gradients, jax_vjp

from .program import Program


def automatic_vjp(fun: Callable, *primals: Any, **options: Any) -> tuple:
    """JAX's own `jax.vjp`."""
    with jax_gradients():
        return jax_vjp(fun, *primals, **options)


def in_primal_types(cotangents: Sequence[Any], primals: Sequence[Any]) -> list[Any]:
    """Cotangents in the types of floating primals: a user's rule may give an integer, a boolean or float0 for one."""
    pairs = zip(cotangents, primals, strict=True)
    return [ct if is_inexact(aval_of(ct)) else as_array(ct).astype(aval_of(x).dtype) for ct, x in pairs]


def as_array(cotangent: Any) -> Any:
    """A cotangent; if it is of float0, which nothing can compute with, booleans in its place."""
    return jnp.zeros(cotangent.shape, bool) if cotangent.dtype == jax.dtypes.float0 else cotangent


def automatic_value_and_grad(fun: Callable, *settings: Any, **options: Any) -> Callable:
    """JAX's own `jax.value_and_grad`."""
    both = jax.value_and_grad(fun, *settings, **options)

    def value_and_grad_fun(*args: Any, **kwargs: Any) -> Any:
        with jax_gradients():
            return both(*args, **kwargs)

    return value_and_grad_fun


BACKWARDS: dict[str, Callable] = {
    "manual": value_and_grad,
    "fused": functools.partial(value_and_grad, fuse=True),
    "automatic": automatic_value_and_grad,
}


def value_and_grad_by(backward: str) -> Callable:
    """`value_and_grad` by the "manual" backward, by the same with blocks ("fused"), or by the "automatic" one."""
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
    return LimitedFunction(function, compiler_options=quick_compilation())
