"""Products of Householder reflections: householder_product, ormqr, geqrf, geqp3.

`dx` is the cotangent of `x`: same shape, same dtype; the formulas are in the adjoint x̄ = conj(dx), for which
δf = Re tr(x̄ᴴ δx): a rule conjugates its cotangents on entry and its result on exit.

LAPACK keeps the vectors v_j = (0 ... 0, 1, a_ij for i > j) in a matrix, under its diagonal. The reflections multiply to
Q = Π (I - τ_j v_j v_jᴴ) = I - V T Vᴴ, with T = (I + DS)⁻¹D, D = diag(τ), S = triu(VᴴV, 1), whatever the τ (Schreiber &
Van Loan 1989; Puglisi 1992). And V is found again in the first columns Q₁: with E = [I; 0], Q₁ - E = V (-T V₁ᴴ), a
unit lower matrix times an upper one, W, on whose diagonal stands -τ (Ballard, Demmel, Grigori, Jacquelin, Nguyen &
Solomonik 2014). So the adjoint of Q -> (V, τ) is that of an LU factorization, without a loop over reflections.
"""

import numpy as np

from ..expressions import Expr, is_complex, vjp_rule
from .factorizations import qr_adjoint
from .matrices import (
    column,
    diag,
    diagonal,
    eye_like,
    inverse_lower,
    inverse_upper,
    lower,
    padded,
    undo_permutation,
    unit_lower,
    upper,
    vstack,
)

# ---------------------------------------------------------------- from reflections to Q


@vjp_rule("householder_product", "A, taus -> Q")
def householder_product_vjp(dQ, A, taus):
    """The first columns of Q: Q applied to [I; 0]."""
    A_bar, taus_bar, _ = _apply_adjoint(A, taus, eye_like(dQ), dQ.conj(), transposed=False)
    return A_bar.conj(), taus_bar.conj()


@vjp_rule("ormqr", "A, taus, C -> P")
def ormqr_vjp(dP, A, taus, C, *, left, transpose):
    """P = QC or QᴴC; CQ = (QᴴCᴴ)ᴴ."""
    if left:
        A_bar, taus_bar, C_bar = _apply_adjoint(A, taus, C, dP.conj(), transposed=transpose)
    else:
        A_bar, taus_bar, C_bar = _apply_adjoint(A, taus, C.H, dP.T, transposed=not transpose)
        C_bar = C_bar.H
    return A_bar.conj(), taus_bar.conj(), C_bar.conj()


def _apply_adjoint(A: Expr, taus: Expr, C: Expr, P_bar: Expr, transposed: bool) -> tuple[Expr, Expr, Expr]:
    """The adjoints of A, τ and C for P = C - V G VᴴC, where G is T, or Tᴴ if `transposed`:
    Ḡ = -VᴴP̄ CᴴV,  C̄ = P̄ - V Gᴴ VᴴP̄,  V̄ = -P̄ CᴴV Gᴴ - C P̄ᴴV G + V(S̄ + S̄ᴴ),
    and for T = M⁻¹D with M = I + DS: N = M⁻ᴴT̄, M̄ = -N Tᴴ, D̄ = N + M̄Sᴴ on the diagonal, S̄ = triu(DᴴM̄, 1)."""
    V = _vectors(A, taus.shape[-1])
    S, inv_M, T = _factors(V, taus)
    G = T.H if transposed else T
    VP, VC = V.H @ P_bar, V.H @ C
    C_bar = P_bar - V @ (G.H @ VP)
    G_bar = -(VP @ VC.H)
    N = inv_M.H @ (G_bar.H if transposed else G_bar)
    M_bar = -(N @ T.H)
    taus_bar = diagonal(N + M_bar @ S.H)
    S_bar = upper(column(taus.conj()) * M_bar, 1)
    through_P = P_bar @ (VC.H @ G.H) + C @ (VP.H @ G)
    V_bar = V @ (S_bar + S_bar.H) - through_P
    return padded(lower(V_bar, 1), (0, A.shape[-1] - V.shape[-1])), taus_bar, C_bar


def _factors(V: Expr, taus: Expr) -> tuple[Expr, Expr, Expr]:
    """S = triu(VᴴV, 1), M⁻¹ and T = M⁻¹D, where M = I + DS and D = diag(τ)."""
    S = upper(V.H @ V, 1)
    inv_M = inverse_upper(column(taus) * S + eye_like(S), unit=True)
    return S, inv_M, inv_M @ diag(taus)


def _vectors(A: Expr, count: int) -> Expr:
    """V: (..., m, count)."""
    return unit_lower(A[..., :count])


# ---------------------------------------------------------------- from Q to reflections


def vectors_adjoint(A: Expr, taus: Expr, A_bar: Expr, taus_bar: Expr) -> tuple[Expr, Expr]:
    """Q₁, and its adjoint from those of V (under the diagonal of A) and τ: Q₁ - E = VW, τ = -diag(W).

    With V₁ the upper square of V and V₂ the rows below it, Q̄₁ has below it V̄₂W⁻ᴴ, and as upper square
    V₁⁻ᴴ (tril(V₁ᴴV̄₁, -1) + triu(W̄Wᴴ - V₂ᴴV̄₂)) W⁻ᴴ, as in `lu_vjp`. In the last row of a real matrix there is
    nothing to reflect: τ is 0 there, whatever the matrix, and so is what is divided by it."""
    m, k = A.shape[-2], taus.shape[-1]
    V = _vectors(A, k)
    E, (_, _, T) = eye_like(V), _factors(V, taus)
    Q = E - V @ (T @ V[..., :k, :].H)  # in products, because JAX has no JVP of `householder_product`
    V1, V2, V_bar = V[..., :k, :], V[..., k:, :], lower(A_bar[..., :k], 1)
    inv_V1 = inverse_lower(V1, unit=True)
    W = upper(inv_V1 @ (Q - E)[..., :k, :])
    if k == m and not is_complex(A):
        W = W + np.broadcast_to(np.diag(np.eye(k, dtype=A.dtype)[-1]), W.shape)
    VV_bar, V2_bar = V1.H @ V_bar[..., :k, :], V_bar[..., k:, :]
    WW_bar = diag(taus_bar * taus.conj()) - V2.H @ V2_bar  # W̄Wᴴ, as far as its upper triangle is read, less V₂ᴴV̄₂
    middle = lower(VV_bar, 1) + upper(WW_bar)
    return Q, vstack(inv_V1.H @ middle, V2_bar) @ inverse_upper(W).H


@vjp_rule("geqrf", "A -> packed, taus")
def geqrf_vjp(dpacked, dtaus, packed, taus):
    """A = QR, with R in the upper triangle and Q's reflections below it: through Q₁ to `qr_adjoint`."""
    return _geqrf_adjoint(packed, taus, dpacked.conj(), dtaus.conj()).conj()


def _geqrf_adjoint(packed: Expr, taus: Expr, packed_bar: Expr, taus_bar: Expr) -> Expr:
    k = taus.shape[-1]
    if not k:
        return packed_bar
    Q, Q_bar = vectors_adjoint(packed, taus, packed_bar, taus_bar)
    return qr_adjoint(Q, upper(packed[..., :k, :]), Q_bar, upper(packed_bar[..., :k, :]))


@vjp_rule("geqp3", "A, given -> packed, pivots, taus", wrt="A")
def geqp3_vjp(dpacked, dtaus, packed, pivots, taus):
    """AP = QR as in geqrf, where column j of AP is column pivots[j] - 1 of A."""
    A_bar = _geqrf_adjoint(packed, taus, dpacked.conj(), dtaus.conj())
    return undo_permutation(A_bar, pivots, -1).conj()
