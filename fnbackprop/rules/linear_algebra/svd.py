"""Singular values and vectors: svd. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are those of the papers, in the adjoint x̄ = conj(dx), for which δf = Re tr(x̄ᴴ δx): a rule conjugates its
cotangents on entry and its result on exit. The forward pass computes the vectors that the backward pass reads, whether
or not they were asked for. On repeated singular values: `ties.py`.

    Townsend 2016: Differentiating the singular value decomposition
    Wan & Zhang 2019: Automatic differentiation for complex valued SVD
"""

from ...backprop.jvp_by_rules import bind_with_jvp
from ...backprop.registry import Structured, structured_rule
from ..expressions import Expr, is_complex, on_expressions
from .matrices import broadcast, column, diag, diagonal, imaginary, largest, padded, row
from .ties import differences, divided, settled, sums, tied, vanishing


@structured_rule("svd")
def svd_vjp(engine, equation, active, wanted):
    """A = U diag(s) Vᴴ: see `svd_pullback`."""
    params = equation.params
    n = min(equation.invars[0].aval.shape[-2:])
    low, high = params["subset_by_index"] or (0, n)
    part, missing = slice(low, high), (low, n - high)
    vectors, full = params["compute_uv"], params["full_matrices"] and params["subset_by_index"] is None

    def forward(a):
        new = {**params, "compute_uv": True, "full_matrices": full and vectors, "subset_by_index": None}
        s, u, vt = bind_with_jvp(engine, equation.primitive, new, [a])
        outputs = [s, u, vt] if full else [s[..., part], u[..., part], vt[..., part, :]]
        return outputs if vectors else outputs[:1], (s, u, vt)

    @on_expressions
    def backward(residuals, cotangents):
        s, U, Vt = residuals
        ds, dU, dVt = cotangents if vectors else (*cotangents, None, None)
        V_bar = None if dVt is None else dVt.T
        if not full:
            ds, dU, V_bar = (None if ct is None else padded(ct, missing) for ct in (ds, dU, V_bar))
        return [svd_pullback(s, U, Vt, ds, dU, V_bar)]

    return Structured(forward, backward, active)


def svd_pullback(s: Expr, U: Expr, Vt: Expr, ds: Expr | None, dU: Expr | None, V_bar: Expr | None) -> Expr:
    """The cotangent of A from those of s and U, and the adjoint of V (None: zero).

    With P = UᴴδU and Q = VᴴδV antihermitian, C = UᴴδA V = P diag(s) + diag(δs) - diag(s) Q. Outside the diagonal
    P + Q = (C + Cᴴ)/(s_j - s_i) and P - Q = (C - Cᴴ)/(s_j + s_i): with X = UᴴŪ, Y = VᴴV̄, Z = X + Y, D = X - Y,

        2 C̄ = (Z - Zᴴ)/(s_j - s_i) + (D - Dᴴ)/(s_j + s_i),  on the diagonal C̄ = s̄ + i Im(X)/s,
        Ā = U C̄ Vᴴ + (I - UUᴴ) Ū diag(1/s) Vᴴ + U diag(1/s) V̄ᴴ (I - VVᴴ)

    (Townsend 2016, Wan & Zhang 2019, with 1/(s_j² - s_i²) in partial fractions, so that a tie needs only Z - Zᴴ = 0).
    The phase that u and v share is a choice: v keeps its own."""
    k = s.shape[-1]
    U1, V1 = U[..., :k], Vt[..., :k, :].H
    if dU is None and V_bar is None:
        return (U1 * row(ds.astype(U.dtype)) @ Vt[..., :k, :]).conj()
    # An absent adjoint costs no product: X or Y is None, and so zero.
    U_bar = None if dU is None else _thin_bar(U, k, dU.conj())
    V_bar = None if V_bar is None else _thin_bar(Vt.H, k, V_bar)
    X = None if U_bar is None else U1.H @ U_bar
    Y = None if V_bar is None else V1.H @ V_bar
    scales = largest(column(s)), largest(*(bar for bar in (U_bar, V_bar) if bar is not None))
    strict = ds is not None
    Z, D = (Y, -Y) if X is None else (X, X) if Y is None else (X + Y, X - Y)
    C_bar = _skew_divided(Z, differences(s), scales, strict) + _skew_divided(D, sums(s), scales, strict)
    if ds is not None:
        C_bar = C_bar + diag(ds.astype(U.dtype))
    if is_complex(U) and X is not None:
        C_bar = C_bar + _per_value(diag(imaginary(diagonal(X).imag)), s, scales)
    A_bar = U1 @ C_bar @ V1.H
    if U_bar is not None and U.shape[-2] > k:
        A_bar = A_bar + _per_value(U_bar - U1 @ X, s, scales) @ V1.H
    if V_bar is not None and Vt.shape[-1] > k:
        A_bar = A_bar + U1 @ _per_value(V_bar - V1 @ Y, s, scales).H
    return A_bar.conj()


def _thin_bar(U: Expr, k: int, U_bar: Expr) -> Expr:
    """The adjoint of the first k columns, from that of all: the others, U₂, move by δU₂ = -U₁ δU₁ᴴ U₂ (how they turn
    among themselves is a choice: not at all), so Ū₁ -= U₂ Ū₂ᴴ U₁."""
    if U_bar.shape[-1] == k:
        return U_bar
    U1, U2, U2_bar = U[..., :k], U[..., k:], U_bar[..., k:]
    return U_bar[..., :k] - U2 @ (U2_bar.H @ U1)


def _skew_divided(X: Expr, gaps: Expr, scales: tuple[Expr, Expr], strict: bool) -> Expr:
    """(X - Xᴴ) / 2 gaps, with ties settled, and 0 on the diagonal."""
    return divided((X - X.H) * 0.5, gaps, settled(X, gaps, *scales, strict))


def _per_value(X: Expr, s: Expr, scales: tuple[Expr, Expr]) -> Expr:
    """The columns of X, each divided by its singular value; 0 where both vanish."""
    s_scale, X_scale = scales
    gaps = broadcast(row(s), X.shape)
    return divided(X, gaps, tied(gaps, s_scale) & vanishing(X, X_scale))
