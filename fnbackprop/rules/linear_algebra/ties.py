"""Quotients by differences of eigenvalues or singular values, where some of them are equal.

The cotangent of eigenvectors is divided by differences of eigenvalues. In the space of a repeated eigenvalue
the vectors are any basis, and where f depends on them through that space alone the numerator is zero with the
difference: the quotient is then 0. It must not be 0 where f depends on the values too: with A = I,
f(A) = tr(G V g(λ) Vᴴ) has the derivative g'(1) G, whose part outside the diagonal of VᴴGV is 0/0 in V̄ and nowhere in
λ̄. So where the values have a cotangent as well, each of the two entries of the numerator must be zero, and not only
what they add to; otherwise the quotient is NaN. (That part is lost without a trace only where g(1) = 0, as in a
logarithm at the identity.)
"""

import jax.numpy as jnp

from ..expressions import Expr, where
from .matrices import broadcast, column, on_diagonal, row


def divided(X: Expr, gaps: Expr, quiet: Expr) -> Expr:
    """X / gaps, and 0 where `quiet`; NaN for a gap of zero elsewhere, and nowhere on the way to a finite quotient
    (`jax_debug_nans`). Real `gaps` divide complex X too."""
    gaps = where(quiet, 1, gaps)
    return where(quiet | (gaps == 0), 0, X) / gaps.astype(X.dtype)  # 0/1, 0/0, or the quotient


def tied(gaps: Expr, scale: Expr) -> Expr:
    """Where the differences of values of this scale are rounding errors."""
    return abs(gaps) <= _noise(gaps, scale)


def vanishing(X: Expr, scale: Expr) -> Expr:
    """Where X, made of unit vectors times cotangents of this scale, is a rounding error."""
    return abs(X) <= _noise(X, scale)


def _noise(X: Expr, scale: Expr) -> Expr:
    """A bound on the rounding errors in X, which is made of values of this scale."""
    return broadcast(scale * (16 * max(X.shape[-2:]) * float(jnp.finfo(X.dtype).eps)), X.shape)


def settled(X: Expr, gaps: Expr, scale: Expr, X_scale: Expr, strict: bool) -> Expr:
    """The diagonal, and where values tie and X - Xᴴ vanishes (strict: both of the two entries)."""
    quiet = vanishing(X, X_scale) & vanishing(X.H, X_scale) if strict else vanishing(X - X.H, X_scale)
    return quiet & tied(gaps, scale) | on_diagonal(gaps)


def differences(values: Expr) -> Expr:
    """v_j - v_i at (i, j)."""
    return row(values) - column(values)


def sums(values: Expr) -> Expr:
    """v_j + v_i at (i, j)."""
    return row(values) + column(values)
