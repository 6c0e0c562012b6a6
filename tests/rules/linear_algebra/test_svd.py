"""svd against JAX, against differences where it has no answer, and against closed forms at ties."""

import jax.numpy as jnp
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.linear_algebra import svd

from ..checking import assert_close
from .matrix_cases import (
    CASES,
    DTYPES,
    apart,
    check_deep,
    check_first,
    check_numeric_parts,
    normal,
    orthonormal,
    stack,
    with_values,
)

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("shape, dtype", CASES)
def test_svd_vjp(shape, dtype):
    check_first(lambda a: lax.linalg.svd(a, full_matrices=False), apart(*shape, dtype), tolerance=20)


@pytest.mark.parametrize("output", [0, 1, 2])
def test_svd_vjp_of_one_output(output):
    check_first(lambda a: lax.linalg.svd(a, full_matrices=False)[output], apart(4, 3, "complex128"), tolerance=20)


@pytest.mark.parametrize("shape, dtype", CASES)
def test_svd_vjp_of_values(shape, dtype):
    check_first(lambda a: lax.linalg.svd(a, compute_uv=False), apart(*shape, dtype), tolerance=20)


@pytest.mark.parametrize("shape, dtype", [((3, 2), "complex128"), ((2, 3), "float64")])
def test_svd_vjp_twice_and_stacked(shape, dtype):
    def fun(a):
        return lax.linalg.svd(a, full_matrices=False)

    check_deep(fun, apart(*shape, dtype))
    check_first(fun, stack(apart, *shape, dtype), tolerance=20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (5, 2), (2, 5), (2, 0)])
def test_svd_vjp_of_full_matrices(shape, dtype):
    """The added columns are determined as a space, and where there is one, of a real matrix, up to the sign."""
    k = min(shape)

    def spaces(a):
        u, s, vt = lax.linalg.svd(a, full_matrices=True)
        outside = u[:, k:] @ u[:, k:].conj().T, vt[k:].conj().T @ vt[k:]
        return *outside, (u[:, :k] * jnp.exp(s).astype(a.dtype)[None]) @ vt[:k]

    check_numeric_parts(spaces, apart(*shape, dtype))
    if dtype == "float64" and abs(shape[0] - shape[1]) == 1:
        check_numeric_parts(lambda a: lax.linalg.svd(a, full_matrices=True), apart(*shape))


def test_svd_vjp_of_a_subset():
    a = apart(4, 3)
    subset, all_of = (
        fb.vjp(fun, a)[1]
        for fun in (
            lambda a: tuple(lax.linalg.svd(a, full_matrices=False, subset_by_index=(1, 3))),
            lambda a: (lambda u, s, vt: (u[:, 1:3], s[1:3], vt[1:3]))(*lax.linalg.svd(a, full_matrices=False)),
        )
    )
    cotangents = normal(4, 2), normal(2, seed=3), normal(2, 3, seed=4)
    assert_close(subset(cotangents), all_of(cotangents), 1e-12)


# ---------------------------------------------------------------- ties

REPEATED = [1.0, 1.0, 1.0, 3.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 4), (5, 4), (4, 6)])
def test_svd_vjp_at_ties(shape, dtype):
    a = with_values(REPEATED, *shape, dtype, seed=5)
    u, _, vt = jnp.linalg.svd(a, full_matrices=False)

    def nuclear(a):
        return jnp.sum(jnp.linalg.svd(a, full_matrices=False)[1])

    def squares(a):
        u, s, vt = jnp.linalg.svd(a, full_matrices=False)
        rebuilt = (u * s.astype(u.dtype)[None]) @ vt
        return jnp.real(jnp.sum(rebuilt * rebuilt.conj()))

    assert_close(fb.grad(nuclear)(a), (u @ vt).conj(), 1e-12)
    assert_close(fb.grad(squares)(a), 2 * a.conj(), 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_svd_vjp_of_the_polar_factor_at_ties(dtype):
    """U Vᴴ needs no difference of singular values: at A = 2Q, δ(UVᴴ) = Q (X - Xᴴ) / 4 with X = QᴴδA."""
    q = orthonormal(3, 3, dtype, seed=2)
    weights = normal(3, 3, dtype=dtype, seed=3)

    def polar(a):
        u, _, vt = jnp.linalg.svd(a, full_matrices=False)
        return jnp.real(jnp.sum(weights.conj() * (u @ vt)))

    skew = q.conj().T @ weights
    want = q @ (skew - skew.conj().T) / 4
    assert_close(fb.grad(polar)(2 * q), want.conj(), 1e-12)


def test_a_planted_error_is_found(monkeypatch):
    pullback = svd.svd_pullback
    monkeypatch.setattr(svd, "svd_pullback", lambda *args: pullback(*args) * 1.001)
    with pytest.raises(AssertionError, match="relative error"):
        check_first(lambda a: lax.linalg.svd(2.0 * a, full_matrices=False), apart(2, 2))
