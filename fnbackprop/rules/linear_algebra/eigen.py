"""Eigenvalues and eigenvectors: eigh, eig. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are those of the papers, in the adjoint x̄ = conj(dx), for which δf = Re tr(x̄ᴴ δx): a rule conjugates its
cotangents on entry and its result on exit. The forward pass computes the vectors that the backward pass reads, whether
or not they were asked for. On repeated eigenvalues: `ties.py`.

    Giles 2008: Collected matrix derivative results for forward and reverse mode algorithmic differentiation
    Boeddeker, Hanebrink, Drude, Heymann & Haeb-Umbach 2017: On the computation of complex-valued gradients (for eig)
"""

import numpy as np
from jax import lax

from ...backprop.jvp_by_rules import bind_with_jvp
from ...backprop.registry import Structured, structured_rule
from ..expressions import Expr, on_expressions, where
from .matrices import (
    broadcast,
    column,
    column_sums,
    diag,
    imaginary,
    largest,
    lower_triangle_adjoint,
    on_diagonal,
    padded,
    row,
    solve,
)
from .ties import differences, divided, settled, tied, vanishing

# ---------------------------------------------------------------- eigh


@structured_rule("eigh")
def eigh_vjp(engine, equation, active, wanted):
    """A hermitian, A = V diag(λ) Vᴴ: see `eigh_pullback`. One triangle of A is all that is read. Of a subset of the
    eigenvectors the others' cotangents are 0."""
    params, n = equation.params, equation.invars[0].aval.shape[-1]
    low, high = params["subset_by_index"] or (0, n)

    def forward(a):
        v, values = bind_with_jvp(engine, equation.primitive, {**params, "subset_by_index": None}, [a])
        return [v[..., low:high], values[..., low:high]], (v, values)

    @on_expressions
    def backward(residuals, cotangents):
        V, values = residuals
        dV, dvalues = (None if ct is None else padded(ct, (low, n - high)) for ct in cotangents)
        A_bar = lower_triangle_adjoint(eigh_pullback(V, values, dV, dvalues).conj())
        return [(A_bar if params["lower"] else A_bar.H).conj()]

    return Structured(forward, backward, active)


def eigh_pullback(V: Expr, values: Expr, dV: Expr | None, dvalues: Expr | None) -> Expr:
    """VᴴδA V = diag(δλ) + (Vᴴ δV) ∘ (λ_j - λ_i), whence Ā = V (diag(λ̄) + VᴴV̄ / (λ_j - λ_i)) Vᴴ, without the
    diagonal of the quotient (Giles 2008, 3.1). A phase of an eigenvector is a choice: its derivative is 0."""
    if dV is None:
        return (V * row(dvalues.astype(V.dtype)) @ V.H).conj()
    V_bar = dV.conj()
    X, gaps = V.H @ V_bar, differences(values)
    quiet = settled(X, gaps, largest(column(values)), largest(V_bar), strict=dvalues is not None)
    middle = divided(X, gaps, quiet)
    if dvalues is not None:
        middle = middle + diag(dvalues.astype(V.dtype))
    return (V @ middle @ V.H).conj()


# ---------------------------------------------------------------- eig


@structured_rule("eig")
def eig_vjp(engine, equation, active, wanted):
    """AV = V diag(λ). The left eigenvectors are the right ones of Aᴴ, with eigenvalues conj(λ): see `_eig_adjoint`."""
    params = equation.params
    has_left, has_right = params["compute_left_eigenvectors"], params["compute_right_eigenvectors"]
    any_vectors = has_left or has_right
    right = has_right or not has_left

    def forward(a):
        new = {**params, "compute_right_eigenvectors": right}
        values, *vectors = bind_with_jvp(engine, equation.primitive, new, [a])
        return [values, *(vectors if any_vectors else ())], (values, *vectors)

    @on_expressions
    def backward(residuals, cotangents):
        values, *vectors = residuals
        bars = [None if ct is None else ct.conj() for ct in cotangents]
        values_bar, *vectors_bar = bars if any_vectors else (*bars, None)
        parts = []
        if right and (vectors_bar[-1] is not None or values_bar is not None):
            parts.append(_eig_adjoint(values, vectors[-1], values_bar, vectors_bar[-1]))
            values_bar = None
        if has_left and (vectors_bar[0] is not None or values_bar is not None):
            values_bar = None if values_bar is None else values_bar.conj()
            parts.append(_eig_adjoint(values.conj(), vectors[0], values_bar, vectors_bar[0]).H)
        return [(parts[0] if len(parts) == 1 else parts[0] + parts[1]).conj()]

    return Structured(forward, backward, active)


def _eig_adjoint(values: Expr, V: Expr, values_bar: Expr | None, V_bar: Expr | None) -> Expr:
    """V⁻¹δA V = diag(δλ) + (V⁻¹δV) ∘ (λ_j - λ_i), but for each vector's length and phase. So
    Ā = V⁻ᴴ (diag(λ̄) + VᴴV̄ / conj(λ_j - λ_i)) Vᴴ, without the diagonal of the quotient (Boeddeker et al. 2017)."""
    middle = None if values_bar is None else diag(values_bar)
    if V_bar is not None:
        V_bar = _normalized_bar(V, V_bar)
        X, gaps = V.H @ V_bar, differences(values).conj()
        ties = tied(gaps, largest(column(values))) & vanishing(X, largest(V_bar))
        quotient = divided(X, gaps, ties | on_diagonal(gaps))
        middle = quotient if middle is None else middle + quotient
    return solve(V.H, middle @ V.H)


def _normalized_bar(V: Expr, V_bar: Expr) -> Expr:
    """The adjoint of v before it is given length 1 and, as LAPACK does, a real largest entry v_k:
    δv -> δv - v (Re(vᴴδv) + i Im(δv_k/v_k)), so with c = vᴴv̄: v̄ -= Re(c) v + Im(c) i v_k/|v_k|² e_k."""
    c = column_sums(V.conj() * V_bar)
    size = abs(V)
    # Of entries of one size the largest is the one that was made real.
    score = where(V.imag == 0, size, size * 0.999)
    largest_row = row(Expr(lax.argmax(lax.stop_gradient(score.array), V.ndim - 2, np.int32)))
    rows = Expr(lax.broadcasted_iota(np.int32, V.shape, V.ndim - 2))
    here = rows == broadcast(largest_row, V.shape)
    turn = broadcast(row(c.imag), V.shape) / where(here, size, 1) ** 2
    phase = where(here, V, 0) * imaginary(turn)
    return V_bar - (V * row(c.real.astype(V.dtype)) + phase)
