"""Eigenvalues and singular values: eigh, eig, svd. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are those of the papers, in the adjoint x̄ = conj(dx), for which δf = Re tr(x̄ᴴ δx): a rule conjugates its
cotangents on entry and its result on exit. The forward pass computes the vectors that the backward pass reads, whether
or not they were asked for.

*Ties.* The cotangent of eigenvectors is divided by differences of eigenvalues. In the space of a repeated eigenvalue
the vectors are any basis, and where f depends on them through that space alone the numerator is zero with the
difference: the quotient is then 0. It must not be 0 where f depends on the values too: with A = I,
f(A) = tr(G V g(λ) Vᴴ) has the derivative g'(1) G, whose part outside the diagonal of VᴴGV is 0/0 in V̄ and nowhere in
λ̄. So where the values have a cotangent as well, each of the two entries of the numerator must be zero, and not only
what they add to; otherwise the quotient is NaN. (That part is lost without a trace only where g(1) = 0, as in a
logarithm at the identity.)

    Giles 2008: Collected matrix derivative results for forward and reverse mode algorithmic differentiation
    Townsend 2016: Differentiating the singular value decomposition
    Wan & Zhang 2019: Automatic differentiation for complex valued SVD
    Boeddeker, Hanebrink, Drude, Heymann & Haeb-Umbach 2017: On the computation of complex-valued gradients (for eig)
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.registry import Structured, structured_rule
from . import matrices as mx
from .matrices import adjoint, conj, matmul

# ---------------------------------------------------------------- ties


def divided(x: Any, gaps: Any, quiet: Any) -> Any:
    """x / gaps, and 0 where `quiet`; NaN for a gap of zero elsewhere. Real `gaps` divide complex x too."""
    one, nan = lax.full_like(gaps, 1), lax.full_like(gaps, np.nan)
    gaps = lax.select(quiet, one, lax.select(lax.eq(gaps, lax.full_like(gaps, 0)), nan, gaps))
    return lax.div(lax.select(quiet, lax.full_like(x, 0), x), mx.like(gaps, x))


def tied(gaps: Any, scale: Any) -> Any:
    """Where the differences of values of this scale are rounding errors."""
    return lax.le(lax.abs(gaps), jnp.broadcast_to(_noise(gaps, scale), gaps.shape))


def vanishing(x: Any, scale: Any) -> Any:
    """Where x, made of unit vectors times cotangents of this scale, is a rounding error."""
    size = lax.abs(x)
    return lax.le(size, jnp.broadcast_to(_noise(x, scale), size.shape))


def _noise(x: Any, scale: Any) -> Any:
    return lax.mul(scale, np.array(16 * max(x.shape[-2:]) * float(jnp.finfo(x.dtype).eps), scale.dtype))


def _off_diagonal(gaps: Any) -> np.ndarray:
    return np.broadcast_to(~np.eye(gaps.shape[-1], dtype=bool), gaps.shape)


def _settled(x: Any, gaps: Any, scale: Any, x_scale: Any, strict: bool) -> Any:
    """The diagonal, and where values tie and x - xᴴ vanishes (strict: both of the two entries)."""
    if strict:
        quiet = lax.bitwise_and(vanishing(x, x_scale), vanishing(adjoint(x), x_scale))
    else:
        quiet = vanishing(lax.sub(x, adjoint(x)), x_scale)
    return lax.bitwise_or(lax.bitwise_and(quiet, tied(gaps, scale)), ~_off_diagonal(gaps))


def _differences(values: Any) -> Any:
    """v_j - v_i at (i, j)."""
    return lax.sub(mx.row(values), mx.column(values))


def _sums(values: Any) -> Any:
    return lax.add(mx.row(values), mx.column(values))


# ---------------------------------------------------------------- eigh


@structured_rule("eigh")
def eigh_vjp(engine, equation, active, wanted):
    """A hermitian, A = V diag(λ) Vᴴ: VᴴδA V = diag(δλ) + (Vᴴ δV) ∘ (λ_j - λ_i), whence
    Ā = V (diag(λ̄) + VᴴV̄ / (λ_j - λ_i)) Vᴴ, without the diagonal of the quotient (Giles 2008, 3.1). A phase of an
    eigenvector is a choice: its derivative is 0. Of a subset of the eigenvectors the others' cotangents are 0."""
    params, n = equation.params, equation.invars[0].aval.shape[-1]
    low, high = params["subset_by_index"] or (0, n)

    def forward(a):
        v, values = equation.primitive.bind(a, **{**params, "subset_by_index": None})
        return [v[..., low:high], values[..., low:high]], (v, values)

    def backward(residuals, cotangents):
        v, values = residuals
        dv, dvalues = (None if ct is None else _padded(ct, low, n) for ct in cotangents)
        return [eigh_pullback(v, values, dv, dvalues)]

    return Structured(forward, backward, active)


def _padded(ct: Any, low: int, n: int) -> Any:
    """The cotangent of entries `low` and following of the last axis as that of all n."""
    width = ct.shape[-1]
    return lax.pad(ct, np.zeros((), ct.dtype), [(0, 0, 0)] * (ct.ndim - 1) + [(low, n - low - width, 0)])


def eigh_pullback(v: Any, values: Any, dv: Any, dvalues: Any) -> Any:
    """The cotangent of A from those of eigenvectors and eigenvalues (None: zero)."""
    if dv is None:
        return conj(matmul(mx.scale_columns(v, mx.like(dvalues, v)), adjoint(v)))
    v_bar = conj(dv)
    x, gaps = matmul(adjoint(v), v_bar), _differences(values)
    scale = mx.largest(mx.column(values))
    middle = divided(x, gaps, _settled(x, gaps, scale, mx.largest(v_bar), dvalues is not None))
    if dvalues is not None:
        middle = lax.add(middle, mx.diagonal_matrix(mx.like(dvalues, v)))
    return conj(matmul(matmul(v, middle), adjoint(v)))


# ---------------------------------------------------------------- svd


@structured_rule("svd")
def svd_vjp(engine, equation, active, wanted):
    """A = U diag(s) Vᴴ: see `svd_pullback`. Singular values alone: Ā = U diag(s̄) Vᴴ."""
    params = equation.params
    shape = equation.invars[0].aval.shape[-2:]
    low, high = params["subset_by_index"] or (0, min(shape))
    part = slice(low, high)
    vectors, full = params["compute_uv"], params["full_matrices"] and params["subset_by_index"] is None

    def forward(a):
        new = {**params, "compute_uv": True, "full_matrices": full and vectors, "subset_by_index": None}
        s, u, vt = equation.primitive.bind(a, **new)
        outputs = [s, u, vt] if full else [s[..., part], u[..., part], vt[..., part, :]]
        return outputs if vectors else outputs[:1], (s, u, vt)

    def backward(residuals, cotangents):
        s, u, vt = residuals
        ds, du, dvt = cotangents if vectors else (*cotangents, None, None)
        if not full:
            ds = None if ds is None else _padded(ds, low, s.shape[-1])
            du = None if du is None else _padded(du, low, s.shape[-1])
            dvt = None if dvt is None else mx.transpose(_padded(mx.transpose(dvt), low, s.shape[-1]))
        return [svd_pullback(s, u, vt, ds, du, dvt)]

    return Structured(forward, backward, active)


def svd_pullback(s: Any, u: Any, vt: Any, ds: Any, du: Any, dvt: Any) -> Any:
    """The cotangent of A from those of s, U and Vᴴ (None: zero).

    With P = UᴴδU and Q = VᴴδV antihermitian, C = UᴴδA V = P diag(s) + diag(δs) - diag(s) Q. Outside the diagonal
    P + Q = (C + Cᴴ)/(s_j - s_i) and P - Q = (C - Cᴴ)/(s_j + s_i): with X = UᴴŪ, Y = VᴴV̄, Z = X + Y, D = X - Y,

        2 C̄ = (Z - Zᴴ)/(s_j - s_i) + (D - Dᴴ)/(s_j + s_i),  on the diagonal C̄ = s̄ + i Im(X)/s,
        Ā = U C̄ Vᴴ + (I - UUᴴ) Ū diag(1/s) Vᴴ + U diag(1/s) V̄ᴴ (I - VVᴴ)

    (Townsend 2016, Wan & Zhang 2019, with 1/(s_j² - s_i²) in partial fractions, so that a tie needs only Z - Zᴴ = 0).
    The phase that u and v share is a choice: v keeps its own."""
    k = s.shape[-1]
    u1, v1 = u[..., :k], adjoint(vt[..., :k, :])
    if du is None and dvt is None:
        return conj(matmul(mx.scale_columns(u1, mx.like(ds, u)), vt[..., :k, :]))
    u_bar = _thin_bar(u, k, None if du is None else conj(du))
    v_bar = _thin_bar(adjoint(vt), k, None if dvt is None else mx.transpose(dvt))
    x, y = matmul(adjoint(u1), u_bar), matmul(adjoint(v1), v_bar)
    scale = mx.largest(mx.column(s))
    bar_scale = lax.max(mx.largest(u_bar), mx.largest(v_bar))
    strict = ds is not None
    middle = lax.add(
        _skew_divided(lax.add(x, y), _differences(s), scale, bar_scale, strict),
        _skew_divided(lax.sub(x, y), _sums(s), scale, bar_scale, strict),
    )
    if ds is not None:
        middle = lax.add(middle, mx.diagonal_matrix(mx.like(ds, u)))
    if mx.is_complex(u):
        phases = lax.complex(lax.full_like(s, 0), lax.imag(mx.diagonal(x)))
        phases = _per_value(mx.diagonal_matrix(phases), s, scale, bar_scale)
        middle = lax.add(middle, phases)
    a_bar = matmul(matmul(u1, middle), adjoint(v1))
    if u.shape[-2] > k:
        outside = _per_value(lax.sub(u_bar, matmul(u1, x)), s, scale, bar_scale)
        a_bar = lax.add(a_bar, matmul(outside, adjoint(v1)))
    if vt.shape[-1] > k:
        outside = _per_value(lax.sub(v_bar, matmul(v1, y)), s, scale, bar_scale)
        a_bar = lax.add(a_bar, matmul(u1, adjoint(outside)))
    return conj(a_bar)


def _thin_bar(u: Any, k: int, u_bar: Any) -> Any:
    """The adjoint of the first k columns, from that of all: the others, U₂, move by δU₂ = -U₁ δU₁ᴴ U₂ (how they turn
    among themselves is a choice: not at all), so Ū₁ -= U₂ Ū₂ᴴ U₁."""
    if u_bar is None:
        return lax.full_like(u[..., :k], 0)
    if u_bar.shape[-1] == k:
        return u_bar
    u1, u2, u2_bar = u[..., :k], u[..., k:], u_bar[..., k:]
    return lax.sub(u_bar[..., :k], matmul(u2, matmul(adjoint(u2_bar), u1)))


def _skew_divided(x: Any, gaps: Any, scale: Any, x_scale: Any, strict: bool) -> Any:
    """(x - xᴴ) / 2 gaps, with ties settled, and 0 on the diagonal."""
    skew = lax.mul(lax.sub(x, adjoint(x)), np.array(0.5, x.dtype))
    return divided(skew, gaps, _settled(x, gaps, scale, x_scale, strict))


def _per_value(x: Any, s: Any, scale: Any, x_scale: Any) -> Any:
    """The columns of x, each divided by its singular value; 0 where both vanish."""
    gaps = jnp.broadcast_to(mx.row(s), x.shape)
    return divided(x, gaps, lax.bitwise_and(tied(gaps, scale), vanishing(x, x_scale)))


# ---------------------------------------------------------------- eig


@structured_rule("eig")
def eig_vjp(engine, equation, active, wanted):
    """AV = V diag(λ). The left eigenvectors are the right ones of Aᴴ, with eigenvalues conj(λ): see `_eig_adjoint`."""
    params = equation.params
    has_left, has_right = params["compute_left_eigenvectors"], params["compute_right_eigenvectors"]
    any_vectors = has_left or has_right
    right = has_right or not has_left

    def forward(a):
        values, *vectors = equation.primitive.bind(a, **{**params, "compute_right_eigenvectors": right})
        return [values, *(vectors if any_vectors else ())], (values, *vectors)

    def backward(residuals, cotangents):
        values, *vectors = residuals
        bars = [None if ct is None else conj(ct) for ct in cotangents]
        values_bar, *vectors_bar = bars if any_vectors else (*bars, None)
        parts = []
        if right and (vectors_bar[-1] is not None or values_bar is not None):
            parts.append(_eig_adjoint(values, vectors[-1], values_bar, vectors_bar[-1]))
            values_bar = None
        if has_left and (vectors_bar[0] is not None or values_bar is not None):
            values_bar = None if values_bar is None else conj(values_bar)
            parts.append(adjoint(_eig_adjoint(conj(values), vectors[0], values_bar, vectors_bar[0])))
        return [conj(parts[0] if len(parts) == 1 else lax.add(*parts))]

    return Structured(forward, backward, active)


def _eig_adjoint(values: Any, v: Any, values_bar: Any, v_bar: Any) -> Any:
    """V⁻¹δA V = diag(δλ) + (V⁻¹δV) ∘ (λ_j - λ_i), but for each vector's length and phase. So
    Ā = V⁻ᴴ (diag(λ̄) + VᴴV̄ / conj(λ_j - λ_i)) Vᴴ, without the diagonal of the quotient (Boeddeker et al. 2017)."""
    middle = None if values_bar is None else mx.diagonal_matrix(values_bar)
    if v_bar is not None:
        v_bar = _normalized_bar(v, v_bar)
        x, gaps = matmul(adjoint(v), v_bar), conj(_differences(values))
        ties = tied(gaps, mx.largest(mx.column(values)))
        quiet = lax.bitwise_or(lax.bitwise_and(ties, vanishing(x, mx.largest(v_bar))), ~_off_diagonal(gaps))
        quotient = divided(x, gaps, quiet)
        middle = quotient if middle is None else lax.add(middle, quotient)
    return jnp.linalg.solve(adjoint(v), matmul(middle, adjoint(v)))


def _normalized_bar(v: Any, v_bar: Any) -> Any:
    """The adjoint of v before it is given length 1 and, as LAPACK does, a real largest entry v_k:
    δv -> δv - v (Re(vᴴδv) + i Im(δv_k/v_k)), so with c = vᴴv̄: v̄ -= Re(c) v + Im(c) i v_k/|v_k|² e_k."""
    c = lax.reduce_sum(lax.mul(conj(v), v_bar), (v.ndim - 2,))
    size = lax.abs(v)
    # Of entries of one size the largest is that which was made real.
    real = lax.eq(lax.imag(v), lax.full_like(size, 0))
    score = lax.stop_gradient(lax.select(real, size, lax.mul(size, np.array(0.999, size.dtype))))
    largest = lax.expand_dims(lax.argmax(score, v.ndim - 2, np.int32), (v.ndim - 2,))
    here = lax.eq(lax.broadcasted_iota(np.int32, v.shape, v.ndim - 2), jnp.broadcast_to(largest, v.shape))
    square = lax.square(lax.select(here, size, lax.full_like(size, 1)))
    turn = lax.complex(lax.full_like(size, 0), lax.div(jnp.broadcast_to(mx.row(lax.imag(c)), v.shape), square))
    phase = lax.mul(lax.select(here, v, lax.full_like(v, 0)), turn)
    return lax.sub(v_bar, lax.add(mx.scale_columns(v, mx.like(lax.real(c), v)), phase))
