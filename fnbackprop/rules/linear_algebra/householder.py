"""Products of Householder reflections: householder_product, ormqr, geqrf, geqp3.

`dx` is the cotangent of `x`: same shape, same dtype; the formulas are in the adjoint x̄ = conj(dx), for which
δf = Re tr(x̄ᴴ δx): a rule conjugates its cotangents on entry and its result on exit.

LAPACK keeps the vectors v_j = (0 ... 0, 1, a_ij for i > j) in a matrix, under its diagonal. The reflections multiply to
Q = Π (I - τ_j v_j v_jᴴ) = I - V T Vᴴ, with T = (I + DS)⁻¹D, D = diag(τ), S = triu(VᴴV, 1), whatever the τ (Schreiber &
Van Loan 1989; Puglisi 1992). And V is found again in the first columns Q₁: with E = [I; 0], Q₁ - E = V (-T V₁ᴴ), a
unit lower matrix times an upper one, W, on whose diagonal stands -τ (Ballard, Demmel, Grigori, Jacquelin, Nguyen &
Solomonik 2014). So the adjoint of Q -> (V, τ) is that of an LU factorization, without a loop over reflections.
"""

from typing import Any

import numpy as np
from jax import lax

from ...backprop.registry import vjp_rule
from . import matrices as mx
from .factorizations import inverse_permutation, qr_adjoint, take
from .matrices import adjoint, conj, matmul, solve_triangular

# ---------------------------------------------------------------- from reflections to Q


@vjp_rule("householder_product", "a, taus -> q")
def householder_product_vjp(dq, a, taus):
    """The columns of Q that stand in q: Q applied to [I; 0]."""
    a_bar, taus_bar, _ = _apply_adjoint(a, taus, mx.eye_like(dq), conj(dq), transposed=False)
    return conj(a_bar), conj(taus_bar)


@vjp_rule("ormqr", "a, taus, c -> p")
def ormqr_vjp(dp, a, taus, c, *, left, transpose):
    """P = QC or QᴴC; CQ = (QᴴCᴴ)ᴴ."""
    if left:
        bars = _apply_adjoint(a, taus, c, conj(dp), transposed=transpose)
    else:
        *bars, c_bar = _apply_adjoint(a, taus, adjoint(c), mx.transpose(dp), transposed=not transpose)
        bars.append(adjoint(c_bar))
    return tuple(map(conj, bars))


def _apply_adjoint(a: Any, taus: Any, c: Any, p_bar: Any, transposed: bool) -> tuple[Any, Any, Any]:
    """The adjoints of a, τ and C for P = C - V G VᴴC, where G is T, or Tᴴ if `transposed`:
    Ḡ = -VᴴP̄ CᴴV,  C̄ = P̄ - V Gᴴ VᴴP̄,  V̄ = -P̄ CᴴV Gᴴ - C P̄ᴴV G + V(S̄ + S̄ᴴ),
    and for T = M⁻¹D with M = I + DS: N = M⁻ᴴT̄, M̄ = -N Tᴴ, D̄ = N + M̄Sᴴ on the diagonal, S̄ = triu(DᴴM̄, 1)."""
    v = _vectors(a, taus.shape[-1])
    s = mx.upper(matmul(adjoint(v), v), 1)
    m = lax.add(mx.scale_rows(taus, s), mx.eye_like(s))
    t = solve_triangular(m, mx.diagonal_matrix(taus), "left", lower=False, unit=True)
    g = adjoint(t) if transposed else t
    vp, vc = matmul(adjoint(v), p_bar), matmul(adjoint(v), c)
    c_bar = lax.sub(p_bar, matmul(v, matmul(adjoint(g), vp)))
    g_bar = lax.neg(matmul(vp, adjoint(vc)))
    n = solve_triangular(m, adjoint(g_bar) if transposed else g_bar, "left", lower=False, unit=True, adjoint=True)
    m_bar = lax.neg(matmul(n, adjoint(t)))
    taus_bar = mx.diagonal(lax.add(n, matmul(m_bar, adjoint(s))))
    s_bar = mx.upper(mx.scale_rows(conj(taus), m_bar), 1)
    first = lax.add(matmul(p_bar, matmul(adjoint(vc), adjoint(g))), matmul(c, matmul(adjoint(vp), g)))
    v_bar = lax.sub(matmul(v, lax.add(s_bar, adjoint(s_bar))), first)
    return _packed(v_bar, a.shape[-1]), taus_bar, c_bar


def _vectors(a: Any, count: int) -> Any:
    """V: (..., m, count)."""
    return mx.unit_lower(a[..., :count])


def _packed(v_bar: Any, columns: int) -> Any:
    """The adjoint of V as that of the matrix that holds it."""
    under = mx.lower(v_bar, 1)
    missing = columns - under.shape[-1]
    return lax.pad(under, np.zeros((), under.dtype), [(0, 0, 0)] * (under.ndim - 1) + [(0, missing, 0)])


# ---------------------------------------------------------------- from Q to reflections


def vectors_adjoint(a: Any, taus: Any, a_bar: Any, taus_bar: Any) -> tuple[Any, Any]:
    """Q₁, and its adjoint from those of V (under the diagonal of a) and τ: Q₁ - E = VW, τ = -diag(W).

    With V₁ the upper square of V and V₂ the rows below it, Q̄₁ has below it V̄₂W⁻ᴴ, and as upper square
    V₁⁻ᴴ (tril(V₁ᴴV̄₁, -1) + triu(W̄Wᴴ - V₂ᴴV̄₂)) W⁻ᴴ, as in `lu_vjp`. In the last row of a real matrix there is
    nothing to reflect: τ is 0 there, whatever the matrix, and so is what is divided by it."""
    m, k = a.shape[-2], taus.shape[-1]
    v = _vectors(a, k)
    q = lax.linalg.householder_product(v, taus)
    v1, v2, v_bar = v[..., :k, :], v[..., k:, :], mx.lower(a_bar[..., :k], 1)
    w = mx.upper(solve_triangular(v1, lax.sub(q, mx.eye_like(q))[..., :k, :], "left", lower=True, unit=True))
    if k == m and not mx.is_complex(a):
        w = lax.add(w, np.broadcast_to(np.diag(np.eye(k, dtype=a.dtype)[-1]), w.shape))
    strict = matmul(adjoint(v1), v_bar[..., :k, :])
    below = v_bar[..., k:, :]
    upper = lax.sub(mx.diagonal_matrix(lax.mul(taus_bar, conj(taus))), matmul(adjoint(v2), below))
    middle = lax.add(mx.lower(strict, 1), mx.upper(upper))
    square = solve_triangular(v1, middle, "left", lower=True, unit=True, adjoint=True)
    rows = lax.concatenate([square, below], a.ndim - 2)
    return q, solve_triangular(w, rows, "right", lower=False, adjoint=True)


@vjp_rule("geqrf", "a -> packed, taus")
def geqrf_vjp(dpacked, dtaus, packed, taus):
    """A = QR, with R in the upper triangle and Q's reflections below it: through Q₁ to `qr_adjoint`."""
    return conj(_geqrf_adjoint(packed, taus, conj(dpacked), conj(dtaus)))


def _geqrf_adjoint(packed, taus, packed_bar, taus_bar):
    k = taus.shape[-1]
    if not k:
        return packed_bar
    q, q_bar = vectors_adjoint(packed, taus, packed_bar, taus_bar)
    return qr_adjoint(q, mx.upper(packed[..., :k, :]), q_bar, mx.upper(packed_bar[..., :k, :]))


@vjp_rule("geqp3", "a, given -> packed, pivots, taus", wrt="a")
def geqp3_vjp(dpacked, dtaus, packed, pivots, taus):
    """AP = QR as in geqrf, where column j of AP is column pivots[j] - 1 of A."""
    a_bar = _geqrf_adjoint(packed, taus, conj(dpacked), conj(dtaus))
    return conj(take(a_bar, inverse_permutation(pivots), -1))
