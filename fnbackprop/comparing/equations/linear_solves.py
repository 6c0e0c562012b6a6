"""Does a solver of `lax.custom_linear_solve` solve the system that it is for?

One that stops at a tolerance leaves a residual, and less of it when it goes on: its derivative is that of the exact
solution. What a direct solver leaves is rounding. What is left otherwise is a mistake, for the derivative is that of
a solution which is not returned.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.evaluate import as_function
from fnbackprop.jaxprs.graph import all_equations
from fnbackprop.jaxprs.limited_loops import LimitedFunction, TooManyIterations, present_limits
from fnbackprop.jaxprs.types import close_jaxpr

from ..arrays import array_norm, to_float64
from ..noise import MORE_SAMPLES, shaken
from ..tolerance import unit_roundoff
from .equation_differences import gaussian_direction

NEARBY = 1e-3  # relative: how far the operands are moved
EXACT_SOLVE = 10.0  # roundoffs, times the root of the number of unknowns: what a direct solver leaves
LESS = 0.5  # of the residual, and less, is left of it when a solver that stopped early goes on
UNSETTLED = 0.05  # so much a solver may leave of whose steps nothing more can be known
PARALLEL = 0.05  # of a residual: what is left of it beside a multiple of the right-hand side, if that is a mistake
DIRECT = frozenset("triangular_solve tridiagonal_solve lu cholesky qr geqrf eigh svd eig".split())
ITERATES = frozenset("while scan pure_callback io_callback ffi_call pallas_call".split())


class LinearSolve(NamedTuple):
    """A solver and the linear operator whose system it solves.

    Attributes:
      operator, solver: what JAX calls these. apply, solve: their jaxprs.
      operator_operands, solver_operands: what the two read. right: the right-hand sides.
      operator_numbers, solver_numbers: of each operand a number, the same where both read it; None: not to be moved.
    """

    operator: str
    solver: str
    apply: Any
    solve: Any
    operator_operands: list[Any]
    solver_operands: list[Any]
    right: list[Any]
    operator_numbers: list[int | None]
    solver_numbers: list[int | None]

    def nearby(self) -> "LinearSolve":
        """With moved operands: with a symmetric matrix conjugate gradients may end exactly, and beside it they do
        not."""
        moved = (
            [x if i is None else shaken(x, i, NEARBY) for x, i in zip(part, numbers, strict=True)]
            for part, numbers in (
                (self.operator_operands, self.operator_numbers),
                (self.solver_operands, self.solver_numbers),
            )
        )
        operator, solver = moved
        return self._replace(operator_operands=operator, solver_operands=solver)

    def product(self, vectors: Sequence[Any]) -> list[np.ndarray]:
        return list(map(to_float64, as_function(close_jaxpr(self.apply))(*self.operator_operands, *vectors)))


class Unsolved(NamedTuple):
    """What a solver leaves: |A x - b| relative to |b| and to |A| |x|; and why that is wrong, None if it is not."""

    residual: float
    wrong: str | None


def unsolved(system: LinearSolve) -> Unsolved | None:
    """What a solver leaves of a system; None if that is rounding."""
    system = system.nearby()
    run = LimitedFunction(as_function(close_jaxpr(system.solve)), compiler_options=quick_compilation())

    def remainder(operands: Sequence[Any], right: Sequence[Any]) -> tuple[list[Any], np.ndarray]:
        x = run(*operands, *right)
        return x, _flat(system.product(x)) - _flat(system.right)

    given = system.solver_operands, system.right
    x, left = remainder(*given)
    beside = system.product([gaussian_direction(to_float64(v)).astype(v.dtype) for v in x])
    scale, roundoff = array_norm(_flat([*system.right, *beside])), unit_roundoff(x[0].dtype)
    residual = array_norm(left) / scale if scale else 0.0
    rounding = EXACT_SOLVE * math.sqrt(left.size) * roundoff
    if not residual > rounding:
        return None
    names = {equation.primitive.name for equation in all_equations(close_jaxpr(system.solve))}
    if names & DIRECT and not names & ITERATES:
        moved = (remainder(*shaken(given, sample, roundoff))[1] for sample in range(MORE_SAMPLES))
        noise = max(array_norm(after - left) for after in moved) / scale  # an inverse is less exact than a solver
        return None if residual <= EXACT_SOLVE * noise else Unsolved(residual, "which rounding does not explain")
    if "while" in names:
        with contextlib.suppress(TooManyIterations), present_limits().running_on():
            left = remainder(*given)[1]
        if array_norm(left) <= max(rounding * scale, LESS * residual * scale):
            return Unsolved(residual, None)
    return Unsolved(residual, _mistake(_flat(system.right), left, array_norm(left) / scale))


def _mistake(right: np.ndarray, left: np.ndarray, residual: float) -> str | None:
    """Why a residual is more than that of a solver that stopped early; None if it may be that."""
    factor = np.vdot(right, right + left) / (np.vdot(right, right) or 1.0)
    if right.size > 1 and array_norm(right + left - factor * right) <= PARALLEL * array_norm(left):
        return f"and what it returns is {factor:.6g} times the solution"
    return "too much for one that stops early" if residual > UNSETTLED else None


def _flat(arrays: Sequence[Any]) -> np.ndarray:
    return np.concatenate([to_float64(x).ravel() for x in arrays])
