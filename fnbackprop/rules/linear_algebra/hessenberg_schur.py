"""Condensed forms, A = QHQᴴ: hessenberg, tridiagonal, schur. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are in the adjoint x̄ = conj(dx), for which δf = Re tr(x̄ᴴ δx): a rule conjugates its cotangents on entry
and its result on exit. With Ω = QᴴδQ antihermitian,

    δH = QᴴδA Q + HΩ - ΩH

is zero where the form has zeros, which determines Ω. The adjoint of such a condition is a multiplier Y on these
entries: with N = H̄ + Y, all that multiplies Ω is K = HᴴN - NHᴴ + QᴴQ̄; where K is hermitian Ω drops out, and Ā = QNQᴴ.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.jvp_by_rules import bind_with_jvp
from ...backprop.registry import Structured, structured_rule
from ..expressions import Expr, full_like, is_complex, on_expressions, sqrt, vjp_rule, where
from .householder import vectors_adjoint
from .matrices import (
    broadcast,
    column,
    diag,
    diagonal,
    eye_like,
    flattened,
    inverse_lower,
    largest,
    lower,
    lower_triangle_adjoint,
    padded,
    row,
    three_diagonals,
    unit_column,
    upper,
)
from .ties import divided, tied, vanishing

# ---------------------------------------------------------------- hessenberg and tridiagonal form


@vjp_rule("hessenberg", "A -> packed, taus")
def hessenberg_vjp(dpacked, dtaus, packed, taus):
    """A = QHQᴴ, with H in the upper triangle and the diagonal below it, whose entries are real, and reflections under
    that, which leave the first axis alone: see `_hessenberg_adjoint`."""
    if packed.shape[-1] < 2:
        return dpacked
    return _hessenberg_adjoint(packed, taus, upper(packed, -1), dpacked.conj(), dtaus.conj()).conj()


@vjp_rule("tridiagonal", "A -> packed, d, e, taus")
def tridiagonal_vjp(dpacked, dd, de, dtaus, packed, d, e, taus, *, lower):
    """A hermitian, A = QTQᴴ: the Hessenberg form, of which d and e are the diagonal and the one beside it. Only one
    triangle of A is read, the other passes through to `packed`. The upper one is the lower one back to front."""
    packed_bar, taus_bar = dpacked.conj(), dtaus.conj()
    if lower:
        return _tridiagonal_adjoint(packed, d, e, taus, packed_bar, dd, de, taus_bar).conj()
    packed, packed_bar = _reversed(packed, 2), _reversed(packed_bar, 2)
    d, e, dd, de, taus, taus_bar = (_reversed(x, 1) for x in (d, e, dd, de, taus, taus_bar))
    return _reversed(_tridiagonal_adjoint(packed, d, e, taus, packed_bar, dd, de, taus_bar).conj(), 2)


def _reversed(a: Expr, axes: int) -> Expr:
    """Back to front along each of the last axes."""
    return Expr(lax.rev(a.array, range(a.ndim - axes, a.ndim)))


def _tridiagonal_adjoint(packed, d, e, taus, packed_bar, d_bar, e_bar, taus_bar):
    """Ā from the lower triangle, and what was passed through from the upper one."""
    unread = upper(packed_bar, 1)
    if packed.shape[-1] < 2:
        A_bar = packed_bar + diag(d_bar).astype(packed.dtype)
    else:
        T = three_diagonals(e, d, e).astype(packed.dtype)
        T_bar = three_diagonals(e_bar, d_bar, full_like(e, 0)).astype(packed.dtype)
        A_bar = _hessenberg_adjoint(packed, taus, T, lower(packed_bar) + T_bar, taus_bar)
    return lower_triangle_adjoint(A_bar) + unread


def _hessenberg_adjoint(packed: Expr, taus: Expr, H: Expr, packed_bar: Expr, taus_bar: Expr) -> Expr:
    """H is zero under the diagonal below the main one, and real on that; Qe₀ = e₀, so Ω has no first row and column,
    where K need not be hermitian. Column k of K - Kᴴ holds Y's column k - 1, times H[k, k-1], and beside it
    later columns alone: n - 1 steps from the last to the first."""
    n = packed.shape[-1]
    inner, inner_bar = packed[..., 1:, :-1], packed_bar[..., 1:, :-1]
    Q, Q_bar = (padded(x, (1, 0), (1, 0)) for x in vectors_adjoint(inner, taus, inner_bar, taus_bar))
    Q = Q + np.broadcast_to(np.diag(np.eye(n, dtype=Q.dtype)[0]), Q.shape)
    twist = Q.H @ Q_bar
    skew = twist - twist.H
    rows = Expr(lax.iota(np.int32, n))
    diagonal_share = 0.5 if is_complex(Q) else 0.0

    @on_expressions
    def step(N, k):
        e_k, before = unit_column(k, H), unit_column(k - 1, H)
        excess = (H.H @ (N @ e_k) - N @ (H.H @ e_k)) - (N.H @ (H @ e_k) - H @ (N.H @ e_k)) + skew @ e_k  # (..., n, 1)
        share = where(rows > k, 1, (rows == k).astype(H.dtype) * diagonal_share)
        pivot = e_k.T @ (H @ before)
        y = excess * broadcast(column(share), excess.shape) / pivot
        return N + y @ before.T, None

    steps = np.arange(n - 1, 0, -1, dtype=np.int32)
    N, _ = lax.scan(step, upper(packed_bar, -1).array, steps)
    return Q @ Expr(N) @ Q.H


# ---------------------------------------------------------------- schur form


@structured_rule("schur")
def schur_vjp(engine, equation, active, wanted):
    """A = ZTZᴴ, T upper triangular; of a real A, with 2 by 2 blocks on the diagonal: see `_schur_adjoint`."""
    params = equation.params

    def forward(a):
        t, z = bind_with_jvp(engine, equation.primitive, {**params, "compute_schur_vectors": True}, [a])
        return [t, z][: len(equation.outvars)], (t, z)

    @on_expressions
    def backward(residuals, cotangents):
        T, Z = residuals
        dT, dZ = (*cotangents, None)[:2]
        T_bar, Z_bar = ((full_like(T, 0) if ct is None else ct).conj() for ct in (dT, dZ))
        return [_schur_adjoint(T, Z, T_bar, Z_bar, strict=dT is not None and dZ is not None).conj()]

    return Structured(forward, backward, active)


def _schur_adjoint(T: Expr, Z: Expr, T_bar: Expr, Z_bar: Expr, strict: bool) -> Expr:
    """K - Kᴴ must vanish under the blocks of the diagonal, which is solved for Y there, and in them: see
    `_balance_blocks`. `strict`: T and Z both have cotangents."""
    pairs = _paired(T)
    twist = Z.H @ Z_bar
    scale = largest(T) * largest(T_bar) + largest(Z_bar)
    under = _below_blocks(pairs)
    N = where(under, 0, T_bar)
    if not is_complex(T):
        N = N + _balance_blocks(T, T_bar, N, twist, pairs, scale)
    excess = where(under, _unbalanced(T, N, twist), 0)
    doubts = (twist, twist.H, N.H) if strict else ()
    return Z @ (N + _multiplier(T, pairs, under, excess, doubts, scale)) @ Z.H


def _unbalanced(T: Expr, N: Expr, twist: Expr) -> Expr:
    """K - Kᴴ, of K = TᴴN - NTᴴ + ZᴴZ̄."""
    K = T.H @ N - N @ T.H + twist
    return K - K.H


def _balance_blocks(T: Expr, T_bar: Expr, N: Expr, twist: Expr, pairs: Expr, scale: Expr) -> Expr:
    """The multipliers of the blocks [[a, b], [c, a]] with bc < 0, which LAPACK gives: keeping the two a equal costs a
    multiplier δ on their difference, which enters K - Kᵀ under a as 2δ(b + c). A turn of the plane does not change a
    block with b = -c, where b + c has a kink: there its cotangent must vanish, and that of the turn."""
    gaps = (_beside(T, 1) + _beside(T, -1)) * -2
    turn = where(pairs, _beside(_unbalanced(T, N, twist), 1), 0)
    kink = _beside(T_bar, 1) + _beside(T_bar, -1)
    quiet = _of_vector(vanishing, kink, largest(T_bar)) & _of_vector(vanishing, turn, scale)
    quiet = quiet & _of_vector(tied, gaps, largest(T))
    share = divided(turn, gaps, quiet | ~pairs)
    return diag(_of_pairs(share, -share))


def _multiplier(T: Expr, pairs: Expr, under: Expr, excess: Expr, doubts: tuple[Expr, ...], scale: Expr) -> Expr:
    """Y, of entries `under` the blocks, with YTᴴ - TᴴY = `excess` there. The blocks of a real T are made triangular by
    a unitary G, which leaves the equation as it is."""
    if is_complex(T):
        return _triangular_multiplier(T, under, excess, doubts, scale)
    G = _block_rotations(T, pairs)
    turned, excess, *doubts = (G.H @ x.astype(G.dtype) @ G for x in (T, excess, *doubts))
    Y = _triangular_multiplier(turned, under, excess, doubts, scale)
    return (G @ Y @ G.H).real


def _triangular_multiplier(T, under, excess, doubts, scale):
    """Y column by column, from the last, each by a triangular solve with the differences of eigenvalues on the
    diagonal. A column that has a tie and nothing to solve for is 0, if `doubts` vanish at the tie: where T and Z both
    have cotangents, what they add to is not enough (see `ties.py`)."""
    T_adjoint = upper(T).H
    values, unit = diagonal(T_adjoint), Expr(jnp.asarray(eye_like(T).array))
    T_scale, inside = largest(T), under.astype(T.dtype)
    axes = (T.ndim - 2, T.ndim - 1)

    @on_expressions
    def step(Y, j):
        e_j = unit_column(j, T)
        rows = inside @ e_j != 0  # (..., n, 1): under the block of column j
        rest = where(rows, (excess - Y @ T_adjoint) @ e_j, 0)
        value = row(values) @ e_j
        ties = rows & tied(value - column(values), T_scale)
        silent = vanishing(rest, scale)
        for doubt in doubts:
            silent = silent & (vanishing(doubt @ e_j, scale) | ~ties)
        idle = Expr(lax.reduce_or(ties.array, axes)) & Expr(lax.reduce_and(silent.array, axes))
        idle = Expr(lax.expand_dims(idle.array, axes))  # (..., 1, 1)
        solved = rows & rows.T & ~idle
        system = where(solved, value * unit - T_adjoint, unit)
        rest = where(broadcast(idle, rest.shape), 0, rest)
        return Y + inverse_lower(system) @ rest @ e_j.T, None

    steps = np.arange(T.shape[-1] - 2, -1, -1, dtype=np.int32)
    Y, _ = lax.scan(step, full_like(T, 0).array, steps)
    return Expr(Y)


# ---------------------------------------------------------------- the 2 by 2 blocks of a real Schur form


def _block_rotations(T: Expr, pairs: Expr) -> Expr:
    """The unitary G with [[b, iω], [iω, b]] / sqrt(b² + ω²) for a block [[a, b], [c, a]], ω² = -bc, whose first column
    is an eigenvector of the block, and 1 elsewhere."""
    c, b = (where(pairs, _beside(T, offset), 0) for offset in (1, -1))
    square = where(pairs, -(c * b), 1)
    size = sqrt(b**2 + square)
    off = where(pairs, sqrt(square) / size, 0)
    on = where(pairs, b / size - 1, 0)
    on = _of_pairs(on, on)
    return Expr(lax.complex(diag(on + 1).array, three_diagonals(off, full_like(on, 0), off).array))


def _of_pairs(first: Expr, second: Expr) -> Expr:
    """The values of pairs (j, j + 1), added up by entry: (..., n - 1) -> (..., n)."""
    return padded(first, (0, 1)) + padded(second, (1, 0))


def _paired(T: Expr) -> Expr:
    """Which pairs (j, j + 1) make a 2 by 2 block: (..., n - 1)."""
    return _beside(T, 1) != 0


def _beside(T: Expr, offset: int) -> Expr:
    """The entries (j + 1, j), or (j, j + 1) for offset -1."""
    n = T.shape[-1]
    return diagonal(T[..., 1:, : n - 1] if offset == 1 else T[..., : n - 1, 1:])


def _below_blocks(pairs: Expr) -> Expr:
    """A mask of the entries under the blocks of the diagonal."""
    below = pairs.astype(np.float32)
    none = full_like(below, 0)
    in_block = three_diagonals(below, padded(none, (0, 1)), none)
    return (in_block == 0) & lower(Expr(lax.full_like(in_block.array, 1, bool)), 1)


def _of_vector(test: Callable[[Expr, Expr], Expr], x: Expr, scale: Expr) -> Expr:
    """A test of matrices, of the entries of a vector."""
    return flattened(test(row(x), scale))
