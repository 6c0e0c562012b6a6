"""Derivatives of a rule's gradient, by `jax.jvp` and by `fb.vjp`, against differences of that gradient, in float64."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb

from ...rules.checking import random_cotangent, random_like
from ..mutants.programs import PROGRAMS, Program

STEP = 1e-5

# Programs whose gradient has no second derivative, or none that differences could find.
REVERSE_EXCEPTIONS = {
    **dict.fromkeys(("max#1", "max#2", "reduce_max#1", "reduce_window_max#4", "reduce_window_max#5"), "at a tie"),
    **dict.fromkeys(("pmax#2", "scatter-min#3", "scatter-max#3"), "at a tie"),
    "cumlogsumexp#2": "infinite values",
    **dict.fromkeys(
        ("convert_element_type#0", "convert_element_type#1", "reduce_precision#0"), "rounded to a narrow type"
    ),
    **{f"random_gamma#{i}": "a sampler's slope is that of its quantile, and not of the draw" for i in range(4)},
    "sign#1": "the square of a sign is constant: its gradient is rounding alone",
    "schur#0": "two conjugate eigenvalues' block is not differentiable at equal diagonal entries",
}
# ... or that JAX's own forward mode refuses.
EXCEPTIONS = {
    **REVERSE_EXCEPTIONS,
    **dict.fromkeys(("scatter-min#0", "scatter-max#0"), "infinite values"),
    **dict.fromkeys(("custom_vjp_call#0", "custom_lin#0"), "JAX refuses the forward mode of a user's custom_vjp"),
    **{f"scatter-mul#{i}": "JAX refuses the JVP of the scatter-mul that the rule emits" for i in (0, 1, 3, 4, 5)},
    "linear_call#0": "JAX refuses the forward mode of linear_call",
    "layout_constraint#0": "arrays of another layout come out of jit transposed on the CPU",
}


def programs() -> list[Program]:
    """Every program once, of the first primitive that it was listed under."""
    listed = [program for found in PROGRAMS.values() for program in found]
    return list({id(p.function): p for p in reversed(listed)}.values())[::-1]


def disagreement(program: Program, reverse: bool = False) -> float:
    """The distance of the second derivative to differences, relative to the latter or to the gradient where that is
    larger: along random tangents by `jax.jvp`, or the pairing with them of `fb.vjp`'s, for a random cotangent."""
    operands = [_cast(x, "float64") for x in program.operands]
    xs = [operands[i] for i in program.argnums]
    # An exact zero stays one: moved, it would be an entry of a sparse array and take the place of another.
    tangents = [jnp.where(x == 0, jnp.zeros_like(x), random_like(x, 50 + i)) for i, x in enumerate(xs)]
    gradient = partial(_gradient, program, operands)
    if reverse:
        both = jax.jit(lambda *xs: _pulled_back(gradient, xs))
    else:
        both = jax.jit(lambda *xs: jax.jvp(gradient, xs, tuple(tangents)))
    with jax.numpy_rank_promotion("allow"):
        value, got = both(*xs)
        want = _differences(jax.jit(gradient), xs, tangents)
    scale = max(_norm(want), _norm(value) * 1e-2, np.finfo(float).tiny)
    if reverse:
        cotangent = random_cotangent(value, 70)
        return abs(_paired(got, tangents) - _paired(cotangent, want)) / scale
    return _norm([np.asarray(g) - w for g, w in zip(got, want, strict=True)]) / scale


def loss_of_precision(program: Program) -> float:
    """The distance of `fb.vjp` of `fb.vjp` in float32 to the same in float64, relative as above."""
    found = []
    for dtype in ("float32", "float64"):
        operands = [_cast(x, dtype) for x in program.operands]
        gradient = partial(_gradient, program, operands)
        with jax.numpy_rank_promotion("allow"):
            pulled = jax.jit(lambda *xs, g=gradient: _pulled_back(g, xs))
            found.append(pulled(*[operands[i] for i in program.argnums]))
    (_, low), (value, high) = found
    error = _norm([np.asarray(a) - np.asarray(b) for a, b in zip(low, high, strict=True)])
    return error / max(_norm(high), _norm(value) * 1e-2, np.finfo(float).tiny)


def _gradient(program: Program, operands: list[Any], *xs: Any) -> Any:
    """Of the outputs' squares, so that the cotangents depend on the outputs, as in a loss."""

    def squares(*active: Any) -> list[Any]:
        found = dict(zip(program.argnums, active, strict=True))
        outputs = jax.tree.leaves(program.function(*[found.get(i, x) for i, x in enumerate(operands)]))
        return [y * jnp.conj(y) if jnp.issubdtype(y.dtype, np.inexact) else y for y in outputs]

    y, pullback = fb.vjp(squares, *xs)
    return pullback(random_cotangent(y, 3))


def _pulled_back(gradient: Any, xs: Any) -> Any:
    value, pullback = fb.vjp(gradient, *xs)
    return value, pullback(random_cotangent(value, 70))


def _differences(gradient: Any, xs: Any, tangents: Any) -> list[np.ndarray]:
    def central(h: float) -> list[Any]:
        ahead, behind = (gradient(*[x + s * h * t for x, t in zip(xs, tangents, strict=True)]) for s in (1, -1))
        return [(np.asarray(a) - np.asarray(b)) / (2 * h) for a, b in zip(ahead, behind, strict=True)]

    wide, narrow = central(2 * STEP), central(STEP)
    return [(4 * b - a) / 3 for a, b in zip(wide, narrow, strict=True)]


def _paired(cotangents: Any, tangents: Any) -> float:
    return float(sum(np.sum(np.real(np.asarray(c) * np.asarray(t))) for c, t in zip(cotangents, tangents, strict=True)))


def _norm(leaves: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.abs(np.asarray(leaf)) ** 2) for leaf in leaves)))


def _cast(x: Any, dtype: str) -> Any:
    if not jnp.issubdtype(x.dtype, np.inexact):
        return x
    return jnp.asarray(np.asarray(x), np.result_type(dtype, "complex64") if jnp.iscomplexobj(x) else dtype)
