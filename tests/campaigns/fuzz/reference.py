"""JAX's gradient of a program, in reverse mode; of what is in a while loop, in forward mode.

JAX has no reverse mode of while loops. Where a program holds one, the loop alone is differentiated forwards, and all
around it backwards. For reverse mode multiplies a cotangent of zero by an infinite derivative, which is NaN, where
forward mode may drop the infinite tangent later: of rsqrt(0), whose value a loop does not read, say.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.evaluate import as_function, bind, interpret, trace_avals
from fnbackprop.jaxprs.graph import holds, with_inner_jaxprs
from fnbackprop.jaxprs.types import ClosedJaxpr, Equation

FLOAT0 = jax.dtypes.float0
Pullback = Callable[[Sequence[Any]], tuple[Any, ...]]


def vjp_with_loops_forwards(program: Callable, *inputs: Any) -> tuple[Any, Callable]:
    """`jax.vjp`, in which the pullback of a while loop is made of its Jacobian in forward mode."""
    closed = _with_loops_forwards(jax.make_jaxpr(program)(*inputs))
    return jax.vjp(lambda *inputs: tuple(as_function(closed)(*inputs)), *inputs)


def vjp_by_forward_mode(program: Callable, *inputs: Any) -> tuple[Any, Pullback]:
    """As `jax.vjp`, by the Jacobian of the whole program in forward mode."""

    def pullback(cotangents: Sequence[Any]) -> tuple[Any, ...]:
        inexact = [i for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, np.inexact)]

        def paired(parts: Sequence[Any]) -> Any:
            merged = list(inputs)
            for i, part in zip(inexact, parts, strict=True):
                merged[i] = jax.lax.complex(*part) if len(part) > 1 else part[0]
            terms = zip(cotangents, program(*merged), strict=True)
            return sum(jnp.sum(ct * y).real for ct, y in terms if ct.dtype != FLOAT0)

        slopes = jax.jacfwd(paired)([_parts(inputs[i]) for i in inexact])
        found = dict(zip(inexact, slopes, strict=True))
        return tuple(
            np.zeros(x.shape, FLOAT0) if i not in found else _as_cotangent(found[i]) for i, x in enumerate(inputs)
        )

    return program(*inputs), pullback


def _parts(x: Any) -> tuple[Any, ...]:
    """A number, or the real and the imaginary part of a complex one."""
    return (x.real, x.imag) if jnp.issubdtype(x.dtype, np.complexfloating) else (x,)


def _as_cotangent(slopes: tuple[Any, ...]) -> Any:
    """JAX's cotangent from the slopes in these parts."""
    return slopes[0] if len(slopes) == 1 else jax.lax.complex(slopes[0], -slopes[1])


def _with_loops_forwards(closed: ClosedJaxpr) -> ClosedJaxpr:
    if not holds(closed, ("while",)):
        return closed

    def apply(equation: Equation, values: list[Any]) -> Sequence[Any]:
        if equation.primitive.name == "while":
            return _loop(equation)(*values)
        return bind(with_inner_jaxprs(equation, _with_loops_forwards), values)

    def function(*operands: Any) -> list[Any]:
        return interpret(closed.jaxpr, closed.consts, operands, apply)

    return trace_avals(function, [v.aval for v in closed.jaxpr.invars])


def _loop(equation: Equation) -> Callable:
    """A while loop as a function that `jax.vjp` takes."""

    def run(*operands: Any) -> list[Any]:
        return list(bind(equation, operands))

    def backward(operands: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        return vjp_by_forward_mode(run, *operands)[1](cotangents)

    loop = jax.custom_vjp(run)
    loop.defvjp(lambda *operands: (run(*operands), operands), backward)
    return loop
