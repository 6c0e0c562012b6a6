"""Condensed forms, A = QHQᴴ: hessenberg, tridiagonal, schur. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are in the adjoint x̄ = conj(dx), for which δf = Re tr(x̄ᴴ δx): a rule conjugates its cotangents on entry
and its result on exit. With Ω = QᴴδQ antihermitian,

    δH = QᴴδA Q + HΩ - ΩH

is zero where the form has zeros, which determines Ω. The adjoint of such a condition is a multiplier Y on these
entries: with N = H̄ + Y, all that multiplies Ω is K = HᴴN - NHᴴ + QᴴQ̄; where K is hermitian Ω drops out, and Ā = QNQᴴ.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.registry import Structured, structured_rule, vjp_rule
from . import matrices as mx
from .eigen_svd import divided, tied, vanishing
from .householder import vectors_adjoint
from .matrices import adjoint, conj, matmul, solve_triangular

# ---------------------------------------------------------------- hessenberg and tridiagonal form


@vjp_rule("hessenberg", "a -> packed, taus")
def hessenberg_vjp(dpacked, dtaus, packed, taus):
    """A = QHQᴴ, with H in the upper triangle and the diagonal below it, whose entries are real, and reflections under
    that, which leave the first axis alone: see `_hessenberg_adjoint`."""
    if packed.shape[-1] < 2:
        return dpacked
    return conj(_hessenberg_adjoint(packed, taus, mx.upper(packed, -1), conj(dpacked), conj(dtaus)))


@vjp_rule("tridiagonal", "a -> packed, d, e, taus")
def tridiagonal_vjp(dpacked, dd, de, dtaus, packed, d, e, taus, *, lower):
    """A hermitian, A = QTQᴴ: the Hessenberg form, of which d and e are the diagonal and the one beside it. Only one
    triangle of A is read, the other passes through to `packed`. The upper one is the lower one back to front."""
    packed_bar, dd, de, taus_bar = conj(dpacked), dd, de, conj(dtaus)
    if not lower:
        packed, packed_bar = _reversed(packed, 2), _reversed(packed_bar, 2)
        d, e, dd, de, taus, taus_bar = (_reversed(x, 1) for x in (d, e, dd, de, taus, taus_bar))
    unread = mx.upper(packed_bar, 1)
    if packed.shape[-1] < 2:
        a_bar = lax.add(packed_bar, mx.like(mx.diagonal_matrix(dd), packed))
    else:
        form = mx.like(mx.three_diagonals(e, d, e), packed)
        known = mx.like(mx.three_diagonals(de, dd, lax.full_like(e, 0)), packed)
        packed_bar = lax.add(mx.lower(packed_bar), known)
        a_bar = _hessenberg_adjoint(packed, taus, form, packed_bar, taus_bar)
    a_bar = conj(lax.add(mx.lower_triangle_adjoint(a_bar), unread))
    return a_bar if lower else _reversed(a_bar, 2)


def _reversed(a: Any, axes: int) -> Any:
    return lax.rev(a, range(a.ndim - axes, a.ndim))


def _hessenberg_adjoint(packed: Any, taus: Any, form: Any, packed_bar: Any, taus_bar: Any) -> Any:
    """H is zero under the diagonal below the main one, and real on that; Qe₀ = e₀, so Ω has no first row and column,
    where K need not be hermitian. Column k of K - Kᴴ holds Y's column k - 1, times H[k, k-1], and beside it
    later columns alone: n - 1 steps from the last to the first."""
    n = packed.shape[-1]
    inner, inner_bar = packed[..., 1:, :-1], packed_bar[..., 1:, :-1]
    q, q_bar = (_bordered(x) for x in vectors_adjoint(inner, taus, inner_bar, taus_bar))
    q = lax.add(q, np.broadcast_to(np.diag(np.eye(n, dtype=q.dtype)[0]), q.shape))
    twist = matmul(adjoint(q), q_bar)
    skew = lax.sub(twist, adjoint(twist))
    diagonal_share = 0.5 if mx.is_complex(q) else 0.0

    def step(multiplied, k):
        here, before = mx.unit_column(k, form), mx.unit_column(lax.sub(k, np.int32(1)), form)
        across = lax.sub(matmul(adjoint(form), matmul(multiplied, here)), matmul(multiplied, _row_bar(form, here)))
        along = lax.sub(matmul(adjoint(multiplied), matmul(form, here)), matmul(form, _row_bar(multiplied, here)))
        wrong = lax.add(lax.sub(across, along), matmul(skew, here))  # (..., n, 1): column k of K - Kᴴ
        rows = lax.iota(np.int32, n)
        share = jnp.where(rows > k, np.array(1, form.dtype), np.array(diagonal_share, form.dtype))
        share = jnp.broadcast_to(mx.column(jnp.where(rows >= k, share, np.array(0, form.dtype))), wrong.shape)
        pivot = matmul(mx.transpose(here), matmul(form, before))
        y = lax.div(lax.mul(wrong, share), pivot)
        return lax.add(multiplied, matmul(y, mx.transpose(before))), None

    steps = np.arange(n - 1, 0, -1, dtype=np.int32)
    multiplied, _ = lax.scan(step, mx.upper(packed_bar, -1), steps)
    return matmul(matmul(q, multiplied), adjoint(q))


def _row_bar(a: Any, unit: Any) -> Any:
    """The row of `a` that a unit vector names, conjugate, as a column."""
    return matmul(adjoint(a), unit)


def _bordered(a: Any) -> Any:
    """With a row of zeros above and a column of zeros on the left."""
    return lax.pad(a, np.zeros((), a.dtype), [(0, 0, 0)] * (a.ndim - 2) + [(1, 0, 0), (1, 0, 0)])


# ---------------------------------------------------------------- schur form


@structured_rule("schur")
def schur_vjp(engine, equation, active, wanted):
    """A = ZTZᴴ, T upper triangular; of a real A, with 2 by 2 blocks on the diagonal: see `_schur_adjoint`."""
    params = equation.params

    def forward(a):
        t, z = equation.primitive.bind(a, **{**params, "compute_schur_vectors": True})
        return [t, z][: len(equation.outvars)], (t, z)

    def backward(residuals, cotangents):
        avals = [equation.outvars[0].aval] * 2
        cotangents = (*cotangents, None)[:2]
        bars = [conj(engine.instantiate(ct, a)) for ct, a in zip(cotangents, avals, strict=True)]
        return [conj(_schur_adjoint(*residuals, *bars, strict=all(ct is not None for ct in cotangents)))]

    return Structured(forward, backward, active)


def _schur_adjoint(t, z, t_bar, z_bar, strict):
    """K - Kᴴ must vanish under the blocks, which is solved for Y there, and in them: LAPACK gives the blocks
    [[a, b], [c, a]] with bc < 0, and keeping the two a equal costs a multiplier δ on their difference, which enters
    K - Kᵀ under a as 2δ(b + c). A turn of the plane does not change a block with b = -c, where b + c has a kink: there
    its cotangent must vanish, and that of the turn."""
    pairs = _paired(t)
    twist = matmul(adjoint(z), z_bar)
    scale = lax.add(lax.mul(mx.largest(t), mx.largest(t_bar)), mx.largest(z_bar))
    under = _below_blocks(pairs, t)
    n_bar = lax.select(under, lax.full_like(t, 0), t_bar)
    if not mx.is_complex(t):
        below, above = _beside(t, 1), _beside(t, -1)
        turn = lax.select(pairs, _beside(_unbalanced(t, n_bar, twist), 1), lax.full_like(below, 0))
        gaps = lax.mul(lax.add(below, above), np.array(-2, t.dtype))
        kink = lax.add(_beside(t_bar, 1), _beside(t_bar, -1))
        quiet = lax.bitwise_and(_flat(vanishing, kink, mx.largest(t_bar)), _flat(vanishing, turn, scale))
        quiet = lax.bitwise_and(quiet, _flat(tied, gaps, mx.largest(t)))
        share = divided(turn, gaps, lax.bitwise_or(quiet, ~pairs))
        n_bar = lax.add(n_bar, mx.diagonal_matrix(_spread(share, lax.neg(share))))
    excess = lax.select(under, _unbalanced(t, n_bar, twist), lax.full_like(t, 0))
    doubts = (twist, adjoint(twist), adjoint(n_bar)) if strict else ()
    return matmul(matmul(z, lax.add(n_bar, _multiplier(t, pairs, under, excess, doubts, scale))), adjoint(z))


def _unbalanced(t, n_bar, twist):
    """K - Kᴴ, of K = TᴴN - NTᴴ + ZᴴZ̄."""
    k = lax.add(lax.sub(matmul(adjoint(t), n_bar), matmul(n_bar, adjoint(t))), twist)
    return lax.sub(k, adjoint(k))


def _multiplier(t, pairs, under, excess, doubts, scale):
    """Y, of entries `under` the blocks, with YTᴴ - TᴴY = `excess` there: column by column, from the last, each by a
    triangular solve with the differences of eigenvalues on the diagonal. A column that has a tie and nothing to solve
    for is 0, if `doubts` vanish at the tie: where T and Z both have cotangents, what they add to is not enough (see
    `eigen_svd.py`). The blocks of a real T are made triangular by a unitary G, which leaves the equation as it is."""
    real = not mx.is_complex(t)
    if real:
        g = _block_rotations(t, pairs)
        t, excess, *doubts = (matmul(matmul(adjoint(g), mx.like(x, g)), g) for x in (t, excess, *doubts))
    t_adjoint = adjoint(mx.upper(t))
    values, t_scale = mx.diagonal(t_adjoint), mx.largest(t)
    unit = jnp.asarray(mx.eye_like(t))
    inside = lax.convert_element_type(under, t.dtype)

    def step(y, j):
        here = mx.unit_column(j, t)
        rows = lax.ne(matmul(inside, here), lax.full_like(here, 0))  # (..., n, 1): under the block of column j
        rest = matmul(lax.sub(excess, matmul(y, t_adjoint)), here)
        rest = lax.select(rows, rest, lax.full_like(rest, 0))
        value = matmul(mx.row(values), here)
        gaps = lax.sub(value, mx.column(values))
        ties = lax.bitwise_and(rows, tied(gaps, t_scale))
        silent = vanishing(rest, scale)
        for doubt in doubts:
            silent = lax.bitwise_and(silent, lax.bitwise_or(vanishing(matmul(doubt, here), scale), ~ties))
        axes = (rows.ndim - 2, rows.ndim - 1)
        idle = lax.expand_dims(lax.bitwise_and(lax.reduce_or(ties, axes), lax.reduce_and(silent, axes)), axes)
        solved = lax.bitwise_and(lax.bitwise_and(rows, mx.transpose(rows)), ~idle)
        system = lax.select(solved, lax.sub(lax.mul(value, unit), t_adjoint), unit)
        rest = lax.select(jnp.broadcast_to(idle, rest.shape), lax.full_like(rest, 0), rest)
        return lax.add(y, matmul(solve_triangular(system, rest, "left", lower=True), mx.transpose(here))), None

    steps = np.arange(t.shape[-1] - 2, -1, -1, dtype=np.int32)
    y, _ = lax.scan(step, lax.full_like(t, 0), steps)
    return lax.real(matmul(matmul(g, y), adjoint(g))) if real else y


def _block_rotations(t, pairs):
    """The unitary G with [[b, iω], [iω, b]] / sqrt(b² + ω²) for a block [[a, b], [c, a]], ω² = -bc, whose first column
    is an eigenvector of the block, and 1 elsewhere."""
    below, above = (lax.select(pairs, _beside(t, offset), lax.full_like(pairs, 0, t.dtype)) for offset in (1, -1))
    square = lax.select(pairs, lax.neg(lax.mul(below, above)), lax.full_like(below, 1))
    size = lax.sqrt(lax.add(lax.square(above), square))
    off = lax.select(pairs, lax.div(lax.sqrt(square), size), lax.full_like(below, 0))
    on = lax.select(pairs, lax.sub(lax.div(above, size), lax.full_like(size, 1)), lax.full_like(below, 0))
    on = _spread(on, on)
    cosines = mx.diagonal_matrix(lax.add(on, lax.full_like(on, 1)))
    return lax.complex(cosines, mx.three_diagonals(off, lax.full_like(on, 0), off))


def _spread(first, second):
    """The values of pairs (j, j + 1), added up by entry: (..., n - 1) -> (..., n)."""
    none, stack = np.zeros((), first.dtype), [(0, 0, 0)] * (first.ndim - 1)
    return lax.add(lax.pad(first, none, [*stack, (0, 1, 0)]), lax.pad(second, none, [*stack, (1, 0, 0)]))


def _paired(t):
    """Which pairs (j, j + 1) make a 2 by 2 block: (..., n - 1)."""
    below = _beside(t, 1)
    return lax.ne(below, lax.full_like(below, 0))


def _beside(t, offset):
    """The entries (j + 1, j), or (j, j + 1) for offset -1."""
    n = t.shape[-1]
    square = t[..., 1:, : n - 1] if offset == 1 else t[..., : n - 1, 1:]
    return mx.diagonal(square)


def _below_blocks(pairs, t):
    """The entries under the blocks of the diagonal."""
    below = lax.convert_element_type(pairs, np.float32)
    in_block = mx.three_diagonals(below, lax.full_like(t[..., 0], 0, np.float32), lax.full_like(below, 0))
    return lax.bitwise_and(lax.eq(in_block, lax.full_like(in_block, 0)), mx.lower(lax.full_like(in_block, 1, bool), 1))


def _flat(test, x, scale):
    """A test of matrices, of the entries of a vector."""
    return lax.squeeze(test(mx.row(x), scale), (x.ndim - 1,))
