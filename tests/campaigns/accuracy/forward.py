"""Forward over reverse: `jax.jvp` of a rule's gradient against differences of that gradient, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb

from ...rules.checking import random_cotangent, random_like
from ..mutants.programs import PROGRAMS, Program

STEP = 1e-5

# Programs whose gradient cannot be differenced, or that JAX's own forward mode refuses.
EXCEPTIONS = {
    **dict.fromkeys(("max#1", "max#2", "reduce_max#1", "reduce_window_max#4", "pmax#2"), "at a tie"),
    **dict.fromkeys(("cumlogsumexp#2", "scatter-min#0", "scatter-max#0"), "infinite values"),
    **dict.fromkeys(
        ("convert_element_type#0", "convert_element_type#1", "reduce_precision#0"), "rounded to a narrow type"
    ),
    **dict.fromkeys(("random_gamma#0", "random_gamma#2"), "a rejection sampler jumps from sample to sample"),
    "schur#0": "two conjugate eigenvalues' block is not differentiable at equal diagonal entries",
    "custom_vjp_call#0": "JAX refuses the forward mode of a user's custom_vjp",
    **dict.fromkeys(("scatter-mul#0", "scatter-mul#4"), "JAX refuses the JVP of the scatter-mul that the rule emits"),
    "linear_call#0": "JAX refuses the forward mode of linear_call",
    "layout_constraint#0": "arrays of another layout come out of jit transposed on the CPU",
}


def programs() -> list[Program]:
    """Every program once, of the first primitive that it was listed under."""
    listed = [program for found in PROGRAMS.values() for program in found]
    return list({id(p.function): p for p in reversed(listed)}.values())[::-1]


def disagreement(program: Program) -> float:
    """The distance of jvp of vjp to differences, relative to the latter or to the gradient where that is larger.

    The outputs are squared: the cotangents depend on them, as in a loss."""
    operands = [_widened(x) for x in program.operands]

    def gradient(*xs: Any) -> Any:
        def squares(*active: Any) -> list[Any]:
            found = dict(zip(program.argnums, active, strict=True))
            outputs = jax.tree.leaves(program.function(*[found.get(i, x) for i, x in enumerate(operands)]))
            return [y * jnp.conj(y) if jnp.issubdtype(y.dtype, np.inexact) else y for y in outputs]

        y, pullback = fb.vjp(squares, *xs)
        return pullback(random_cotangent(y, 3))

    xs = [operands[i] for i in program.argnums]
    tangents = [random_like(x, 50 + i) for i, x in enumerate(xs)]
    both = jax.jit(lambda *xs: jax.jvp(gradient, xs, tuple(tangents)))

    def central(h: float) -> list[Any]:
        ahead, behind = (both(*[x + s * h * t for x, t in zip(xs, tangents, strict=True)])[0] for s in (1, -1))
        return [(np.asarray(a) - np.asarray(b)) / (2 * h) for a, b in zip(ahead, behind, strict=True)]

    with jax.numpy_rank_promotion("allow"):
        value, got = both(*xs)
        wide, narrow = central(2 * STEP), central(STEP)
    want = [(4 * b - a) / 3 for a, b in zip(wide, narrow, strict=True)]
    error = _norm([np.asarray(g) - w for g, w in zip(got, want, strict=True)])
    return error / max(_norm(want), _norm(value) * 1e-2)


def _norm(leaves: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.abs(np.asarray(leaf)) ** 2) for leaf in leaves)))


def _widened(x: Any) -> Any:
    if not jnp.issubdtype(x.dtype, np.inexact):
        return x
    return jnp.asarray(np.asarray(x), "complex128" if jnp.iscomplexobj(x) else "float64")
