"""Equations whose derivative is that of what they stand for, and not of the steps by which they compute it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fnbackprop.jaxprs.avals import is_inexact
from fnbackprop.jaxprs.types import is_var

from ..results import Cotangent, EquationComparison, EquationKind, Verdict
from .linear_solves import LinearSolve, unsolved
from .walk import Visit

LINEAR_SOLVE = "custom_linear_solve"


class ImplicitDerivative(NamedTuple):
    """Why the function's own differences may have another slope than an equation's derivative.

    Attributes:
      reason: in words. wrong: whether that is no other way to compute it, but a mistake.
    """

    reason: str
    wrong: bool = False


def has_implicit_derivative(visit: Visit) -> bool:
    """Whether an equation may have a derivative that is not that of its steps: `implicit_derivative` tells."""
    return visit.name in ("random_gamma", LINEAR_SOLVE)


def implicit_derivative(visit: Visit, intended: Sequence[str] = ()) -> ImplicitDerivative | None:
    """Why the function's own differences may have another slope than the equation's derivative; None: no reason.

    intended: with "custom_linear_solve" among these names, no solver is held to be wrong."""
    if visit.name == "random_gamma":
        return ImplicitDerivative(
            "its derivative keeps a sample's quantile, and is not that of the sampler's own steps"
        )
    for solve in _solves(visit):
        found = unsolved(solve)
        if found is not None and (found.wrong is None or LINEAR_SOLVE in intended):
            return ImplicitDerivative(
                f"its derivative is that of the exact solution, and {solve.solver} stops at a residual of "
                f"{found.residual:.1e}"
            )
        if found is not None:
            return ImplicitDerivative(
                f"what {solve.solver} returns does not satisfy {solve.operator}(x) = b: its residual is "
                f"{found.residual:.1e}, {found.wrong}",
                wrong=True,
            )
    return None


def wrong_solve(visit: Visit, reason: str) -> EquationComparison:
    """A solver that does not solve its system, as a finding of its right-hand side's cotangent."""
    return EquationComparison(
        primitive=visit.name, name="", where=visit.location.line, within=visit.location.within,
        operand=len(visit.operands) - 1, cotangent=Cotangent.ACTUAL, verdict=Verdict.FAIL, reason=reason,
        kind=EquationKind.CUSTOM_RULE,
    )  # fmt: skip


def _solves(visit: Visit) -> list[LinearSolve]:
    """The solver of an equation with its operands, and that of the transposed system."""
    equation, operands = visit.equation, visit.operands
    jaxprs, lengths = equation.params["jaxprs"], equation.params["const_lengths"]
    given, variables = list(operands), list(equation.invars)
    parts = {}
    for name in ("matvec", "vecmat", "solve", "transpose_solve"):
        count = getattr(lengths, name) or 0
        parts[name], given = given[:count], given[count:]
        parts[f"{name} variables"], variables = variables[:count], variables[count:]

    def solve(operator: str, solver: str) -> LinearSolve:
        both = _read_by_both(parts[f"{operator} variables"], parts[f"{solver} variables"])
        return LinearSolve(
            operator, solver, getattr(jaxprs, operator), getattr(jaxprs, solver), parts[operator], parts[solver],
            given, *both,
        )  # fmt: skip

    found = [solve("matvec", "solve")]
    if jaxprs.transpose_solve is not None and jaxprs.transpose_solve is not jaxprs.solve:
        found.append(solve("vecmat", "transpose_solve"))
    return found


def _read_by_both(operator: list[Any], solver: list[Any]) -> tuple[list[int | None], list[int | None]]:
    """Of each operand of the operator and of the solver a number, the same for the same one, if the solver reads all
    that the operator does; none, if it reads a factorization of these."""
    floating = [v for v in operator if is_var(v) and is_inexact(v.aval)]
    numbers = {v: i for i, v in enumerate(floating)}
    if not set(filter(is_var, solver)).issuperset(floating):
        numbers = {}
    return tuple([numbers.get(v) if is_var(v) else None for v in part] for part in (operator, solver))
