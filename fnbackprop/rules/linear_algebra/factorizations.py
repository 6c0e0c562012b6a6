"""Triangular and orthogonal factors: cholesky, lu, qr. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are those of the papers, in the adjoint x̄ = conj(dx), for which δf = Re tr(x̄ᴴ δx): a rule conjugates its
cotangents on entry and its result on exit. The adjoint of triu is triu, of X -> MXN is X̄ -> MᴴX̄Nᴴ.

    Giles 2008: Collected matrix derivative results for forward and reverse mode algorithmic differentiation
    Murray 2016: Differentiation of the Cholesky decomposition
    Seeger, Hetzel, Dai, Meissner & Lawrence 2017: Auto-differentiating linear algebra
    Roberts & Roberts 2020: QR and LQ decomposition matrix backpropagation algorithms (for wide matrices)
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.registry import nondifferentiable
from ..expressions import Expr, vjp_rule, where
from .matrices import (
    broadcast,
    column,
    diag,
    diagonal,
    eye_like,
    flattened,
    hermitian_of_upper,
    hstack,
    inverse_lower,
    inverse_upper,
    largest,
    lower,
    lower_triangle_adjoint,
    solve,
    undo_permutation,
    unit_lower,
    upper,
    vstack,
)

nondifferentiable("lu_pivots_to_permutation", reason="its values are positions")

# ---------------------------------------------------------------- cholesky


@vjp_rule("cholesky", "A -> L")
def cholesky_vjp(dL, L):
    """A = LLᴴ: see `_cholesky_adjoint`. The lower triangle of A is all that is read."""
    return lower_triangle_adjoint(_cholesky_adjoint(lower(L), dL.conj())).conj()


def _cholesky_adjoint(L: Expr, L_bar: Expr) -> Expr:
    """L⁻¹ δA L⁻ᴴ = L⁻¹δL + (L⁻¹δL)ᴴ, so δL = L Φ(L⁻¹ δA L⁻ᴴ), where Φ takes the lower triangle and half the diagonal.
    The adjoint is Ā = L⁻ᴴ Φ(Lᴴ L̄) L⁻¹ (Murray 2016)."""
    inv_L = inverse_lower(L)
    return inv_L.H @ _lower_half(L.H @ L_bar) @ inv_L


def _lower_half(A: Expr) -> Expr:
    """The lower triangle, with half the diagonal."""
    return lower(A) - diag(diagonal(A) * 0.5)


@vjp_rule("cholesky_update", "R, w -> S")
def cholesky_update_vjp(dS, R, w, S):
    """SᵀS = B = RᵀR + wwᵀ: S is the Cholesky factor of B (whatever the signs of its diagonal), and with Y = B̄ + B̄ᵀ,
    R̄ = triu(RY) and w̄ = Yw."""
    B_bar = _cholesky_adjoint(upper(S).T, dS.T)
    Y = B_bar + B_bar.T
    return upper(upper(R) @ Y), flattened(Y @ column(w))


@vjp_rule("symmetric_product", "A, C -> S")
def symmetric_product_vjp(dS, A, *, alpha, beta):
    """S = αAAᵀ + βC: Ā = α(S̄ + S̄ᵀ)A, C̄ = βS̄."""
    return (dS + dS.T) @ A * alpha, dS * beta


# ---------------------------------------------------------------- lu


@vjp_rule("lu", "A -> LU, pivots, permutation")
def lu_vjp(dLU, LU, permutation):
    """PA = LU with both packed in one matrix. L⁻¹ P δA U⁻¹ = L⁻¹δL + δU U⁻¹ is strictly lower plus upper, so
    M = tril(LᴴL̄, -1) + triu(ŪUᴴ) and PĀ = L⁻ᴴ M U⁻ᴴ (Seeger et al. 2017). For a tall A the lower rows are
    L₂ = A₂U⁻¹: Ā₂ = L̄₂U⁻ᴴ, ŪUᴴ -= L₂ᴴL̄₂; for a wide one, U₂ = L⁻¹A₂: Ā₂ = L⁻ᴴŪ₂, LᴴL̄ -= Ū₂U₂ᴴ.

    The triangles of both products that M takes read L̄ and Ū where they are not zero alone: so both are given whole."""
    k = min(LU.shape[-2:])
    bar, square = dLU.conj(), LU[..., :k, :k]
    L, U = unit_lower(square), upper(square)
    square_bar, L2_bar, U2_bar = bar[..., :k, :k], bar[..., k:, :k], bar[..., :k, k:]
    LL_bar, UU_bar = L.H @ square_bar, square_bar @ U.H
    LL_bar = LL_bar - U2_bar @ LU[..., :k, k:].H
    UU_bar = UU_bar - LU[..., k:, :k].H @ L2_bar
    M = lower(LL_bar, 1) + upper(UU_bar)
    left = inverse_lower(square, unit=True).H @ hstack(M, U2_bar)  # (k, n): L⁻ᴴM, and L⁻ᴴŪ₂ beside it
    PA_bar = vstack(left[..., :k], L2_bar) @ inverse_upper(square).H  # (m, k)
    if U2_bar.shape[-1]:
        PA_bar = hstack(PA_bar, left[..., k:])
    return undo_permutation(PA_bar, permutation, -2).conj()


# ---------------------------------------------------------------- qr


@vjp_rule("qr", "A -> Q, R, *permutation")
def qr_vjp(dQ, dR, Q, R, permutation, *, full_matrices, **params):
    """AP = QR, with R's diagonal real: `qr_adjoint`, after the columns that complete Q, and P undone."""
    A_bar = qr_adjoint(Q, R, dQ.conj(), dR.conj())
    return (undo_permutation(A_bar, permutation[0], -1) if permutation else A_bar).conj()


def qr_adjoint(Q: Expr, R: Expr, Q_bar: Expr, R_bar: Expr) -> Expr:
    """QᴴδA R⁻¹ = QᴴδQ + δR R⁻¹ is antihermitian plus upper with a real diagonal. So, with K = QᴴQ̄ - R̄Rᴴ, and H the
    hermitian matrix of K's upper triangle and real diagonal, Ā = (Q̄ - QH)R⁻ᴴ (Seeger et al. 2017). For a wide A
    the columns beside are R₂ = QᴴA₂: Ā₂ = QR̄₂ and Q̄ += A₂R̄₂ᴴ (Roberts & Roberts 2020)."""
    k = min(Q.shape[-2], R.shape[-1])
    if Q.shape[-1] > k:
        Q_bar = _completed(Q[..., :k], Q[..., k:], Q_bar[..., :k], Q_bar[..., k:])
    Q, R, R_bar = Q[..., :k], R[..., :k, :], R_bar[..., :k, :]
    R2, R2_bar = R[..., k:], R_bar[..., k:]
    R, R_bar = R[..., :k], R_bar[..., :k]
    if R2.shape[-1]:
        Q_bar = Q_bar + Q @ (R2 @ R2_bar.H)
    K = Q.H @ Q_bar - R_bar @ R.H
    A1_bar = (Q_bar - Q @ hermitian_of_upper(K)) @ inverse_upper(R).H
    return hstack(A1_bar, Q @ R2_bar) if R2.shape[-1] else A1_bar


def _completed(Q1: Expr, Q2: Expr, Q1_bar: Expr, Q2_bar: Expr) -> Expr:
    """Q̄₁, with what the cotangent of the columns Q₂ that complete Q₁ adds to it.

    Q is a product of Householder reflections, Q = I - VTVᴴ. With E = [I; 0], G the upper square of Q₁ - E and N its
    lower rows, Q₁ - E = -VT V₁ᴴ gives NG⁻¹ = V₂V₁⁻¹ =: B, and so Q₂ = [0; I] + (Q₁ - E)Bᴴ. Then
    Q̄₁ += Q̄₂B, B̄ = Q̄₂ᴴ(Q₁ - E), N̄ += B̄G⁻ᴴ, Ḡ -= BᴴB̄G⁻ᴴ.

    Where a column of A needs no reflection G is singular, and Q₂ jumps with A. What depends on Q₂'s span alone has a
    derivative even there: that which goes with Q₂ᴴδQ₂ = 0, Q̄₁ -= Q₂Q̄₂ᴴQ₁, if Q₂ᴴQ̄₂ is hermitian."""
    n = Q1.shape[-1]
    moved = Q1 - eye_like(Q1)
    G, N = moved[..., :n, :], moved[..., n:, :]
    jumps = _singular(G)
    G = where(broadcast(jumps, G.shape), eye_like(G), G)
    B_adjoint = solve(G.H, N.H)
    B_bar = Q2_bar.H @ moved
    N_bar = solve(G, B_bar.H).H
    through_B = vstack(-(B_adjoint @ N_bar), N_bar)
    smooth, span = Q2_bar @ B_adjoint.H + through_B, _of_span(Q1, Q2, Q2_bar)
    return Q1_bar + where(broadcast(jumps, span.shape), span, smooth)


def _of_span(Q1: Expr, Q2: Expr, Q2_bar: Expr) -> Expr:
    """What the cotangent of Q₂ adds to Q̄₁ where f depends on its span alone; NaN elsewhere."""
    span = -(Q2 @ (Q2_bar.H @ Q1))
    twist = Q2.H @ Q2_bar
    hermitian = largest(twist - twist.H) <= largest(Q2_bar) * _rounding(Q1)
    return where(broadcast(hermitian, span.shape), span, np.nan)


def _singular(A: Expr) -> Expr:
    """Whether matrices with entries of order one are singular to rounding: (..., n, n) -> (..., 1, 1)."""
    pivots = abs(diagonal(Expr(lax.linalg.lu(lax.stop_gradient(A.array))[0])))
    smallest = lax.reduce_min(pivots.array, (pivots.ndim - 1,))
    return Expr(lax.expand_dims(smallest, (A.ndim - 2, A.ndim - 1))) <= _rounding(A)


def _rounding(A: Expr) -> float:
    """A bound on the rounding error of products of matrices with entries of order one."""
    return 16 * A.shape[-2] * float(jnp.finfo(A.dtype).eps)
