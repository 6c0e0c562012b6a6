"""Linear solves: triangular_solve, tridiagonal_solve, custom_linear_solve. `dx` is the cotangent of `x`: same shape,
same dtype.

All say one thing: for A x = b, δx = A⁻¹(δb - δA x), so db = A⁻ᵀ dx is the solution of the transposed system, and
dA = -db xᵀ (Giles 2008, 2.3.1).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.engine import fit
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import aval_of, output_avals
from ...jaxprs.evaluate import as_function, bind
from ...jaxprs.types import close_jaxpr
from ..expressions import Expr, vjp_rule
from . import matrices
from .matrices import padded, row_sums


@vjp_rule("triangular_solve", "A, B -> X")
def triangular_solve_vjp(dX, A, X, active, *, left_side, lower, transpose_a, conjugate_a, unit_diagonal):
    """op(A) X = B: dB = op(A)⁻ᵀ dX, d op(A) = -dB Xᵀ; X op(A) = B: dB = dX op(A)⁻ᵀ, d op(A) = -Xᵀ dB. Then op is
    undone, and of dA that triangle is kept which was read."""
    dB = lax.linalg.triangular_solve(
        A.array,
        dX.array,
        left_side=left_side,
        lower=lower,
        transpose_a=not transpose_a,
        conjugate_a=conjugate_a,
        unit_diagonal=unit_diagonal,
    )
    if not active[0]:
        return None, dB
    d_op = Expr(dB) @ X.T if left_side else X.T @ Expr(dB)
    triangle = matrices.lower if lower else matrices.upper
    dA = triangle(-(d_op.T if transpose_a else d_op), int(unit_diagonal))
    return dA.conj() if conjugate_a else dA, dB


@vjp_rule("tridiagonal_solve", "dl, d, du, B -> X")
def tridiagonal_solve_vjp(dX, dl, d, du, X, *, perturb_singular=None):
    """T X = B with T[i, i-1] = dl[i], T[i, i] = d[i], T[i, i+1] = du[i]: dB = T⁻ᵀ dX, whose diagonals are du and dl,
    moved by one; dT = -dB Xᵀ on the three diagonals, summed over the right-hand sides."""
    known = {} if perturb_singular is None else {"perturb_singular": perturb_singular}
    below, above = padded(du, (1, -1)), padded(dl, (-1, 1))
    dB = Expr(lax.linalg.tridiagonal_solve(below.array, d.array, above.array, dX.array, **known))

    def product(X):
        return -row_sums(dB * X)

    return product(padded(X, (1, -1), (0, 0))), product(X), product(padded(X, (-1, 1), (0, 0))), dB


# ---------------------------------------------------------------- custom_linear_solve


def linear_solve_activity(engine, equation, active):
    """The solution is active, and auxiliary outputs are not."""
    count = len(_operator(equation).jaxpr.outvars)
    return [i < count for i in range(len(equation.outvars))]


def _operator(equation):
    return close_jaxpr(equation.params["jaxprs"].matvec)


@structured_rule("custom_linear_solve", activity=linear_solve_activity)
def custom_linear_solve_vjp(engine, equation, active, wanted):
    """A(c) x = b: db = A⁻ᵀ dx, by the user's transposed solve or else by `_solve_transposed`; c, of the operator alone,
    gets minus the VJP of c -> A(c) x at the solution, with cotangent db. The solvers' own operands get none."""
    lengths, count = equation.params["const_lengths"], len(_operator(equation).jaxpr.outvars)
    consts_active = active[: lengths.matvec]
    plan = engine.plan(_operator(equation), (*consts_active, *(False,) * count), (True,) * count)
    has_cotangent = (
        *plan.has_cotangent[: lengths.matvec],
        *(False,) * (len(active) - lengths.matvec - count),
        *active[-count:],
    )

    def forward(*operands):
        outputs = bind(equation, operands)
        return outputs, (operands[: len(operands) - count], tuple(outputs[:count]))

    def backward(residuals, cotangents):
        consts, x = residuals
        pairs = zip(cotangents[:count], output_avals(equation)[:count], strict=True)
        dx = [engine.instantiate(ct, aval) for ct, aval in pairs]
        db = _solve_transposed(equation, consts, dx)
        dconsts = [None] * lengths.matvec
        if any(plan.has_cotangent):
            _, inner = engine.forward(plan, [*consts[: lengths.matvec], *x])
            dconsts = engine.backward(plan, inner, [lax.neg(ct) for ct in db])[: lengths.matvec]
        return [*dconsts, *(None,) * (len(consts) - lengths.matvec), *db]

    return Structured(forward, backward, has_cotangent)


def _solve_transposed(equation: Any, consts: Sequence[Any], dx: Sequence[Any]) -> Sequence[Any]:
    """A⁻ᵀ dx: the same primitive with the operator and its transpose exchanged, so that it has a derivative itself.

    Where the user gave no transposed solve, A is written out, column by column, and solved by LU: n products and n²
    numbers, for n unknowns. The user's solve cannot be transposed instead: if it iterates, its derivative in b is A⁻¹
    only where it has converged in every direction, and not in that of b alone."""
    lengths, parts = equation.params["const_lengths"], equation.params["jaxprs"]
    if parts.transpose_solve is None:
        return _solve_written_out(as_function(_operator(equation)), consts[: lengths.matvec], dx)
    ends = np.cumsum(lengths)
    matvec, vecmat, solve, transposed = (consts[end - size : end] for end, size in zip(ends, lengths, strict=True))

    def exchanged(group):
        return group._replace(
            matvec=group.vecmat, vecmat=group.matvec, solve=group.transpose_solve, transpose_solve=group.solve
        )

    operands = [*vecmat, *matvec, *transposed, *solve, *dx]
    params = {**equation.params, "const_lengths": exchanged(lengths), "jaxprs": exchanged(parts)}
    return equation.primitive.bind(*operands, **params)[: len(dx)]


def _solve_written_out(matvec: Callable, consts: Sequence[Any], dx: Sequence[Any]) -> Sequence[Any]:
    """A⁻ᵀ dx from the products A e_i, which are the rows of Aᵀ."""
    dtype = jnp.result_type(*dx)
    sizes = np.cumsum([ct.size for ct in dx])[:-1]

    def flat(leaves):
        return lax.concatenate([lax.convert_element_type(lax.reshape(x, (x.size,)), dtype) for x in leaves], 0)

    def leaves(vector):
        return [
            fit(lax.reshape(part, ct.shape), aval_of(ct)) for part, ct in zip(jnp.split(vector, sizes), dx, strict=True)
        ]

    n = sum(ct.size for ct in dx)
    rows = jax.vmap(lambda e: flat(matvec(*consts, *leaves(e))))(jnp.eye(n, dtype=dtype))
    return leaves(jnp.linalg.solve(rows, flat(dx)))
