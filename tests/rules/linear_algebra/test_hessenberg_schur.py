"""hessenberg, tridiagonal and schur: JAX has no derivative of them, so against differences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.linear_algebra import hessenberg_schur

from ..checking import assert_close
from .matrix_cases import DTYPES, apart, check_numeric_parts, normal, positive, stack

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_hessenberg_vjp(n, dtype):
    check_numeric_parts(lax.linalg.hessenberg, apart(n, n, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_tridiagonal_vjp(n, lower, dtype):
    check_numeric_parts(lambda a: lax.linalg.tridiagonal(a, lower=lower), apart(n, n, dtype))


def test_condensed_forms_of_a_stack():
    check_numeric_parts(lax.linalg.hessenberg, stack(apart, 3, 3, "complex128"))
    check_numeric_parts(lax.linalg.tridiagonal, stack(apart, 3, 3))


def general(n, dtype="float64", seed=0):
    """A matrix with eigenvalues apart: of a real one, one conjugate pair, if there is room, and real ones."""
    blocks = np.diag(np.arange(1.0, n + 1))
    if n > 2:
        blocks[0, 1], blocks[1, 0], blocks[1, 1] = 3.0, -1.0, 1.0
    turn = np.eye(n) + 0.2 * np.asarray(normal(n, n, dtype=dtype, seed=seed))
    return jnp.asarray(turn @ blocks @ np.linalg.inv(turn), dtype)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_schur_vjp_of_real_matrices(n):
    check_numeric_parts(lax.linalg.schur, general(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_schur_vjp_of_complex_matrices(n):
    """LAPACK's phases jump: of what does not depend on them."""

    def fun(a):
        t, z = lax.linalg.schur(a)
        spaces = (z * jnp.arange(1.0, n + 1).astype(z.dtype)[None]) @ z.conj().T
        return jnp.abs(t) ** 2, jnp.diagonal(t), spaces

    check_numeric_parts(fun, general(n, "complex128"))


def test_schur_vjp_of_the_form_alone_and_of_a_stack():
    def fun(a):
        return jnp.abs(lax.linalg.schur(a, compute_schur_vectors=False)[0]) ** 2

    check_numeric_parts(fun, general(4))
    check_numeric_parts(fun, stack(general, 3, "complex128"))


@pytest.mark.parametrize(
    "a",
    [
        jnp.diag(np.array([1.0, 1.0, 2.0])),
        np.array([[1.0, 2.0, 0.0], [-2.0, 1.0, 0.0], [0.0, 0.0, 3.0]]),
        np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]]),
    ],
    ids=["repeated", "rotation", "defective"],
)
def test_schur_vjp_at_ties(a):
    """The sum of squares of T is that of A, whatever the ties."""

    def squares(a):
        return jnp.sum(lax.linalg.schur(a)[0] ** 2)

    a = jnp.asarray(a, "float64")
    assert_close(fb.grad(squares)(a), 2 * a, 1e-12)
    complex_squares = fb.grad(lambda a: jnp.sum(jnp.abs(lax.linalg.schur(a)[0]) ** 2))
    assert_close(complex_squares(a.astype(complex)), 2 * a.astype(complex), 1e-12)


def test_schur_vjp_does_not_guess_at_ties():
    """Z T Zᴴ is A, but at the identity its cotangents do not show it under the diagonal of T."""

    def rebuilt(a):
        t, z = lax.linalg.schur(a)
        return jnp.sum(normal(3, 3) * (z @ t @ z.T))

    def displaced(a):
        """T - 1 is zero there, and so is the cotangent of Z."""
        t, z = lax.linalg.schur(a)
        return jnp.sum(normal(3, 3) * (z @ (t - jnp.eye(3)) @ z.T))

    assert jnp.isnan(fb.grad(rebuilt)(jnp.eye(3))).any() and jnp.isnan(fb.grad(displaced)(jnp.eye(3))).any()
    assert_close(fb.grad(rebuilt)(general(3)), normal(3, 3), 1e-12)


def test_sqrtm():
    """X² = A: of f = tr(WᵀX), X̄ = W and XᵀĀ + ĀXᵀ = W."""
    a, w = positive(3) + 0.1 * normal(3, 3), normal(3, 3, seed=4)
    x = jnp.real(jax.scipy.linalg.sqrtm(a))
    got = fb.grad(lambda a: jnp.sum(w * jnp.real(jax.scipy.linalg.sqrtm(a))))(a)
    assert_close(x.T @ got + got @ x.T, w, 1e-11)


def test_expm():
    a, w = apart(3, 3), normal(3, 3, seed=4)
    expm = jax.scipy.linalg.expm
    got = fb.grad(lambda a: jnp.sum(w * expm(a)))(a)
    assert_close(got, jax.grad(lambda a: jnp.sum(w * expm(a)))(a), 1e-12)


def test_twice_and_stacked():
    """f(QHQᴴ) = f(A), so all its derivatives are those of f(A)."""
    weights = normal(3, 3, seed=5)

    def schur(a):
        t, z = lax.linalg.schur(a)
        return z @ t @ z.T

    def hessenberg(a):
        h, q = jax.scipy.linalg.hessenberg(a, calc_q=True)
        return q @ h @ q.T

    def loss(fun):
        return lambda a: jnp.sum(weights * jnp.sin(fun(a)))

    def curvature(fun, grad):
        return jax.jit(grad(lambda a: jnp.sum(weights * grad(loss(fun))(a))))(general(3))

    def same(a):
        return a

    for fun in (schur, hessenberg):
        assert_close(curvature(fun, fb.grad), curvature(same, jax.grad), 1e-10)
        got = jax.jit(jax.vmap(fb.grad(loss(fun))))(stack(general, 3))
        assert_close(got, jax.vmap(jax.grad(loss(same)))(stack(general, 3)), 1e-11)


def test_a_planted_error_is_found(monkeypatch):
    adjoint = hessenberg_schur._schur_adjoint
    monkeypatch.setattr(hessenberg_schur, "_schur_adjoint", lambda *args, strict: 1.001 * adjoint(*args, strict=strict))
    with pytest.raises(AssertionError, match="differences"):
        check_numeric_parts(lax.linalg.schur, general(2))
