"""Equations whose derivative is that of what they stand for, and not of the steps by which they compute it."""

import math
from typing import Any

import numpy as np

from fnbackprop.jaxprs.avals import is_inexact
from fnbackprop.jaxprs.evaluate import as_function
from fnbackprop.jaxprs.types import close_jaxpr, is_var

from ..arrays import array_norm, to_float64
from ..noise import shaken
from ..tolerance import unit_roundoff
from .check import COMPILED
from .equation_differences import gaussian_direction
from .walk import Visit

NEARBY = 1e-3  # relative: how far the operands are moved
EXACT_SOLVE = 10.0  # roundoffs, times the root of the number of unknowns: what a direct solver leaves


def has_implicit_derivative(visit: Visit) -> bool:
    """Whether an equation may have a derivative that is not that of its steps: `implicit_derivative` tells."""
    return visit.name in ("random_gamma", "custom_linear_solve")


def implicit_derivative(visit: Visit) -> str | None:
    """Why the function's own differences may have another slope than the equation's derivative; None: no reason."""
    if visit.name == "random_gamma":
        return "its derivative keeps a sample's quantile, and is not that of the sampler's own steps"
    if visit.name == "custom_linear_solve":
        error, allowed = _residual(visit)
        if error > allowed:
            return f"its derivative is that of the exact solution, and the solver stops at a residual of {error:.1e}"
    return None


def _residual(visit: Visit) -> tuple[float, float]:
    """|A x - b| of a linear solve, relative to |b| and to |A| |x|, and what rounding explains of it.

    Of a solver that reads the operator itself, at operands nearby: with a symmetric matrix conjugate gradients may end
    exactly, and beside it they do not.
    """
    equation, operands, x = visit.equation, visit.operands, visit.outputs
    operator, count = close_jaxpr(equation.params["jaxprs"].matvec), equation.params["const_lengths"].matvec
    size = len(operator.jaxpr.outvars)
    if seeds := _read_by_both(equation):
        pairs = zip(equation.invars, operands, strict=True)
        operands = [shaken(y, seeds[v], NEARBY) if is_var(v) and v in seeds else y for v, y in pairs]
        x = COMPILED.values(equation, operands)
    x, b = x[:size], operands[len(operands) - size :]

    def product(vectors: Any) -> list[np.ndarray]:
        return list(map(to_float64, as_function(operator)(*operands[:count], *vectors)))

    off = math.hypot(*(array_norm(y - to_float64(z)) for y, z in zip(product(x), b, strict=True)))
    scale = math.hypot(
        *map(array_norm, b), *map(array_norm, product([gaussian_direction(to_float64(v)).astype(v.dtype) for v in x]))
    )
    unknowns = sum(v.size for v in x)
    return off / scale if scale else 0.0, EXACT_SOLVE * math.sqrt(unknowns) * unit_roundoff(x[0].dtype)


def _read_by_both(equation: Any) -> dict[Any, int]:
    """The operator's variables, numbered, if the solver reads them too; none, if it reads a factorization of them."""
    lengths = equation.params["const_lengths"]
    before = lengths.matvec + lengths.vecmat
    own, solver = equation.invars[: lengths.matvec], equation.invars[before : before + lengths.solve]
    floating = [v for v in own if is_var(v) and is_inexact(v.aval)]
    known = set(filter(is_var, solver))
    return {v: i for i, v in enumerate(floating)} if known.issuperset(floating) else {}
