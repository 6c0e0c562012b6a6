"""Triangular and orthogonal factors: cholesky, lu, qr. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are those of the papers, in the adjoint x̄ = conj(dx), for which δf = Re tr(x̄ᴴ δx): a rule conjugates its
cotangents on entry and its result on exit. The adjoint of triu is triu, of X -> MXN is X̄ -> MᴴX̄Nᴴ.

    Giles 2008: Collected matrix derivative results for forward and reverse mode algorithmic differentiation
    Murray 2016: Differentiation of the Cholesky decomposition
    Seeger, Hetzel, Dai, Meissner & Lawrence 2017: Auto-differentiating linear algebra
    Roberts & Roberts 2020: QR and LQ decomposition matrix backpropagation algorithms (for wide matrices)
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.registry import nondifferentiable, vjp_rule
from ...jaxprs.compat import CHOLESKY_READS_THE_LOWER_TRIANGLE
from . import matrices as mx
from .matrices import adjoint, conj, matmul, solve_triangular

nondifferentiable("lu_pivots_to_permutation", reason="its values are positions")

# ---------------------------------------------------------------- cholesky


@vjp_rule("cholesky", "a -> l")
def cholesky_vjp(dl, l):
    """A = LLᴴ: L⁻¹ δA L⁻ᴴ = L⁻¹δL + (L⁻¹δL)ᴴ, so δL = L Φ(L⁻¹ δA L⁻ᴴ), where Φ takes the lower triangle and half the
    diagonal. Its adjoint is Ā = L⁻ᴴ Φ(Lᴴ L̄) L⁻¹ (Murray 2016). The hermitian part of Ā alone matters, unless JAX
    promises that the lower triangle of A is all that is read."""
    a_bar = _cholesky_adjoint(mx.lower(l), conj(dl))
    return conj(mx.lower_triangle_adjoint(a_bar) if CHOLESKY_READS_THE_LOWER_TRIANGLE else a_bar)


def _cholesky_adjoint(l, l_bar):
    """L⁻ᴴ Φ(Lᴴ L̄) L⁻¹."""
    product = matmul(adjoint(l), l_bar)
    half = lax.sub(mx.lower(product), mx.diagonal_matrix(lax.mul(mx.diagonal(product), _half(product))))
    return solve_triangular(l, solve_triangular(l, half, "left", True, adjoint=True), "right", True)


def _half(a):
    return np.array(0.5, a.dtype)


@vjp_rule("cholesky_update", "r, w -> s")
def cholesky_update_vjp(ds, r, w, s):
    """SᵀS = B = RᵀR + wwᵀ: S is the Cholesky factor of B (whatever the signs of its diagonal), and with Y = B̄ + B̄ᵀ,
    R̄ = triu(RY) and w̄ = Yw."""
    b_bar = _cholesky_adjoint(mx.transpose(mx.upper(s)), mx.transpose(ds))
    y = lax.add(b_bar, mx.transpose(b_bar))
    r = mx.upper(r)
    return mx.upper(matmul(r, y)), lax.squeeze(matmul(y, mx.column(w)), (w.ndim,))


@vjp_rule("symmetric_product", "a, c -> s")
def symmetric_product_vjp(ds, a, *, alpha, beta):
    """S = αAAᵀ + βC: Ā = α(S̄ + S̄ᵀ)A, C̄ = βS̄."""
    da = matmul(lax.add(ds, mx.transpose(ds)), a)
    return lax.mul(da, np.array(alpha, a.dtype)), lax.mul(ds, np.array(beta, a.dtype))


# ---------------------------------------------------------------- lu


@vjp_rule("lu", "a -> lu, pivots, permutation")
def lu_vjp(dlu, lu, permutation):
    """PA = LU with both packed in one matrix. L⁻¹ P δA U⁻¹ = L⁻¹δL + δU U⁻¹ is strictly lower plus upper, so
    M = tril(LᴴL̄, -1) + triu(ŪUᴴ) and PĀ = L⁻ᴴ M U⁻ᴴ (Seeger et al. 2017). For a tall A the lower rows are
    L₂ = A₂U⁻¹: Ā₂ = L̄₂U⁻ᴴ, ŪUᴴ -= L₂ᴴL̄₂; for a wide one, U₂ = L⁻¹A₂: Ā₂ = L⁻ᴴŪ₂, LᴴL̄ -= Ū₂U₂ᴴ."""
    k = min(lu.shape[-2:])
    bar = conj(dlu)
    l, u = mx.unit_lower(lu[..., :k, :k]), mx.upper(lu[..., :k, :k])
    l_bar, u_bar = mx.lower(bar[..., :k, :k], 1), mx.upper(bar[..., :k, :k])
    below, beside = bar[..., k:, :k], bar[..., :k, k:]
    strict, upper = matmul(adjoint(l), l_bar), matmul(u_bar, adjoint(u))
    strict = lax.sub(strict, matmul(beside, adjoint(lu[..., :k, k:])))
    upper = lax.sub(upper, matmul(adjoint(lu[..., k:, :k]), below))
    middle = lax.add(mx.lower(strict, 1), mx.upper(upper))
    # (k, k) and, beside it or below it, the rest of the matrix
    left = solve_triangular(
        l, lax.concatenate([middle, beside], middle.ndim - 1), "left", True, unit=True, adjoint=True
    )
    rows = lax.concatenate([left[..., :k], below], middle.ndim - 2)
    square = solve_triangular(u, rows, "right", False, adjoint=True)
    permuted = square if not beside.shape[-1] else lax.concatenate([square, left[..., k:]], middle.ndim - 1)
    return conj(take(permuted, inverse_permutation(permutation), -2))


def inverse_permutation(permutation: Any) -> Any:
    """The inverse of permutations of the last axis."""
    positions = lax.broadcasted_iota(permutation.dtype, permutation.shape, permutation.ndim - 1)
    return lax.sort((permutation, positions), num_keys=1)[1]


def take(a: Any, indices: Any, axis: int) -> Any:
    """Rows (axis -2) or columns (-1) of each matrix, by (..., n) indices."""
    indices = mx.column(indices) if axis == -2 else mx.row(indices)
    return jnp.take_along_axis(a, indices, axis, mode="promise_in_bounds")


# ---------------------------------------------------------------- qr


@vjp_rule("qr", "a -> q, r, *permutation")
def qr_vjp(dq, dr, q, r, permutation, *, full_matrices, **params):
    """AP = QR, with R's diagonal real: `qr_adjoint`, after the columns that complete Q, and P undone."""
    a_bar = qr_adjoint(q, r, conj(dq), conj(dr))
    return conj(take(a_bar, inverse_permutation(permutation[0]), -1) if permutation else a_bar)


def qr_adjoint(q, r, q_bar, r_bar):
    """QᴴδA R⁻¹ = QᴴδQ + δR R⁻¹ is antihermitian plus upper with a real diagonal. So, with K = QᴴQ̄ - R̄Rᴴ, and H the
    hermitian matrix of K's upper triangle and real diagonal, Ā = (Q̄ - QH)R⁻ᴴ (Seeger et al. 2017). For a wide A
    the columns beside are R₂ = QᴴA₂: Ā₂ = QR̄₂ and Q̄ += A₂R̄₂ᴴ (Roberts & Roberts 2020)."""
    k = min(q.shape[-2], r.shape[-1])
    if q.shape[-1] > k:
        q_bar = _completed(q[..., :k], q[..., k:], q_bar[..., :k], q_bar[..., k:])
    q, r, r_bar = q[..., :k], r[..., :k, :], r_bar[..., :k, :]
    beside, beside_bar = r[..., k:], r_bar[..., k:]
    r, r_bar = r[..., :k], r_bar[..., :k]
    q_bar = lax.add(q_bar, matmul(q, matmul(beside, adjoint(beside_bar))))
    difference = lax.sub(matmul(adjoint(q), q_bar), matmul(r_bar, adjoint(r)))
    strict = mx.upper(difference, 1)
    real = mx.like(lax.real(mx.diagonal(difference)) if mx.is_complex(q) else mx.diagonal(difference), q)
    hermitian = lax.add(lax.add(strict, adjoint(strict)), mx.diagonal_matrix(real))
    square = solve_triangular(r, lax.sub(q_bar, matmul(q, hermitian)), "right", False, adjoint=True)
    return lax.concatenate([square, matmul(q, beside_bar)], q.ndim - 1)


def _completed(q1, q2, q1_bar, q2_bar):
    """What the cotangent of the columns Q₂ that complete Q₁ adds to Q̄₁.

    Q is a product of Householder reflections, Q = I - VTVᴴ. With E = [I; 0], G the upper square of Q₁ - E and N its
    lower rows, Q₁ - E = -VT V₁ᴴ gives NG⁻¹ = V₂V₁⁻¹ =: B, and so Q₂ = [0; I] + (Q₁ - E)Bᴴ. Then
    Q̄₁ += Q̄₂B, B̄ = Q̄₂ᴴ(Q₁ - E), N̄ += B̄G⁻ᴴ, Ḡ -= BᴴB̄G⁻ᴴ.

    Where a column of A needs no reflection G is singular, and Q₂ jumps with A. What depends on Q₂'s span alone has a
    derivative even there: that which goes with Q₂ᴴδQ₂ = 0, Q̄₁ -= Q₂Q̄₂ᴴQ₁, if Q₂ᴴQ̄₂ is hermitian."""
    n = q1.shape[-1]
    moved = lax.sub(q1, mx.eye_like(q1))
    square, rows = moved[..., :n, :], moved[..., n:, :]
    jumps = _singular(square)
    square = lax.select(jnp.broadcast_to(jumps, square.shape), mx.eye_like(square), square)
    b_adjoint = jnp.linalg.solve(adjoint(square), adjoint(rows))
    b_bar = matmul(adjoint(q2_bar), moved)
    rows_bar = adjoint(jnp.linalg.solve(square, adjoint(b_bar)))
    through_b = lax.concatenate([lax.neg(matmul(b_adjoint, rows_bar)), rows_bar], q1.ndim - 2)
    smooth = lax.add(matmul(q2_bar, adjoint(b_adjoint)), through_b)
    span = lax.neg(matmul(q2, matmul(adjoint(q2_bar), q1)))
    across = matmul(adjoint(q2), q2_bar)
    twist = mx.largest(lax.sub(across, adjoint(across)))
    noise = lax.mul(mx.largest(q2_bar), np.array(_rounding(q1), twist.dtype))
    span = lax.select(jnp.broadcast_to(lax.le(twist, noise), span.shape), span, lax.full_like(span, np.nan))
    return lax.add(q1_bar, lax.select(jnp.broadcast_to(jumps, span.shape), span, smooth))


def _singular(a: Any) -> Any:
    """Whether matrices with entries of order one are singular to rounding: (..., n, n) -> (..., 1, 1)."""
    pivots = lax.abs(mx.diagonal(lax.linalg.lu(lax.stop_gradient(a))[0]))
    smallest = lax.reduce_min(pivots, (pivots.ndim - 1,))
    return lax.le(lax.expand_dims(smallest, (a.ndim - 2, a.ndim - 1)), np.array(_rounding(a), smallest.dtype))


def _rounding(a: Any) -> float:
    """A bound on the rounding error of products of matrices with entries of order one."""
    return 16 * a.shape[-2] * float(jnp.finfo(a.dtype).eps)
