"""eigh and eig against JAX, against differences where it has no answer, and against closed forms at ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.linear_algebra import eigen

from ..checking import assert_close
from .matrix_cases import (
    DTYPES,
    check_deep,
    check_first,
    check_numeric_parts,
    hermitian,
    normal,
    positive,
    stack,
)

pytestmark = pytest.mark.usefixtures("x64")


def eig(left=False, right=False, derivatives=True):
    def fun(a):
        return lax.linalg.eig(
            a,
            compute_left_eigenvectors=left,
            compute_right_eigenvectors=right,
            enable_eigvec_derivs=derivatives,
        )

    return fun


def scattered(n, dtype="float64", seed=0):
    """A general matrix with eigenvalues that lie apart: of a real one, in conjugate pairs for odd n > 1."""
    blocks = np.diag(np.arange(1.0, n + 1))
    if n > 2:
        blocks[0, 1], blocks[1, 0], blocks[1, 1] = 2.0, -2.0, 1.0
    turn = np.eye(n) + 0.2 * np.asarray(normal(n, n, dtype=dtype, seed=seed))
    return jnp.asarray(turn @ blocks @ np.linalg.inv(turn), dtype)


# ---------------------------------------------------------------- eigh


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_eigh_vjp(n, dtype):
    check_first(lax.linalg.eigh, positive(n, dtype), tolerance=20)


@pytest.mark.parametrize(
    "options",
    [{"lower": False}, {"sort_eigenvalues": False}, {"subset_by_index": (0, 3)}],
    ids=str,
)
def test_eigh_vjp_with(options):
    check_first(lambda a: lax.linalg.eigh(a, **options), positive(3), tolerance=20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lower", [True, False])
def test_eigh_vjp_of_one_triangle(lower, dtype):
    """One triangle is read: the other has no gradient, which JAX gives it a half of."""
    unread = (jnp.triu if lower else jnp.tril)(normal(3, 3, dtype=dtype), 1 if lower else -1)

    def values_and_projections(a):
        v, values = lax.linalg.eigh(a, lower=lower, symmetrize_input=False)
        return values, v[..., :1] @ v[..., :1].conj().T  # a phase is a choice

    check_numeric_parts(values_and_projections, positive(3, dtype) + unread)


@pytest.mark.parametrize("output", [0, 1])
def test_eigh_vjp_of_one_output(output):
    check_first(lambda a: lax.linalg.eigh(a)[output], positive(3), tolerance=20)


@pytest.mark.parametrize("dtype", DTYPES)
def test_eigh_vjp_twice_and_stacked(dtype):
    check_deep(lax.linalg.eigh, positive(3, dtype))
    check_first(lax.linalg.eigh, stack(positive, 3, dtype), tolerance=20)


def test_eigh_vjp_of_a_subset():
    """CPU and GPU have no subsets, but under a derivative we decompose fully anyway: against a slice of all."""
    a = positive(4)
    subset, all_of = (
        fb.vjp(fun, a)[1]
        for fun in (
            lambda a: tuple(lax.linalg.eigh(a, subset_by_index=(1, 3))),
            lambda a: tuple(x[..., 1:3] for x in lax.linalg.eigh(a)),
        )
    )
    cotangents = normal(4, 2), normal(2, seed=3)
    assert_close(subset(cotangents), all_of(cotangents), 1e-12)


# ---------------------------------------------------------------- eig


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_eig_vjp_of_values(n, dtype):
    check_first(eig(), scattered(n, dtype), tolerance=50)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_eig_vjp(sides, dtype):
    check_first(eig(*sides), scattered(3, dtype), tolerance=50)


@pytest.mark.parametrize("dtype", DTYPES)
def test_eig_vjp_where_jax_refuses(dtype):
    """LAPACK's own vectors, of unit length and with a real largest entry, are smooth functions of the matrix."""
    with pytest.raises(NotImplementedError):
        jax.vjp(eig(True, True, derivatives=False), scattered(3, dtype))
    check_numeric_parts(eig(True, True, derivatives=False), scattered(3, dtype))


def test_eig_vjp_twice_and_stacked():
    check_deep(eig(False, True), scattered(3), tolerance=100)
    check_first(eig(True, True), stack(scattered, 2, "complex128"), tolerance=50)


# ---------------------------------------------------------------- ties

REPEATED = [1.0, 1.0, 1.0, 3.0]


@pytest.mark.parametrize("turned", [False, True], ids=["exact", "rounded"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_eigh_vjp_at_ties(dtype, turned):
    """Functions of the whole matrix have a derivative there, whose closed form is known."""
    a = hermitian(REPEATED, dtype, seed=5) if turned else jnp.diag(jnp.asarray(REPEATED, dtype))
    inverse, identity = jnp.linalg.inv(a), jnp.eye(4, dtype=a.dtype)

    def rebuilt(a, g):
        w, v = jnp.linalg.eigh(a)
        return (v * g(w).astype(v.dtype)[None]) @ v.conj().T

    space = (3 * identity - a) / 2
    weights = positive(4, dtype, seed=9)
    cases = [  # function, and its gradient
        (lambda a: jnp.sum(jnp.linalg.eigvalsh(a) ** 2), 2 * a),
        (lambda a: jnp.sum(jnp.log(jnp.linalg.eigh(a)[0])), inverse),
        (lambda a: jnp.trace(rebuilt(a, jnp.log)).real, inverse),
        (lambda a: jnp.trace(rebuilt(a, lambda w: w**3)).real, 3 * a @ a),
        (lambda a: jnp.trace(rebuilt(a, jnp.sqrt) @ rebuilt(a, jnp.sqrt)).real, identity),
    ]
    for fun, want in cases:
        assert_close(fb.grad(fun)(a), want.conj(), 1e-12)

    def projection(a):
        v = jnp.linalg.eigh(a)[1][:, :3]
        return jnp.trace(weights @ v @ v.conj().T).real

    # The projection P on the tied space turns by (I - P) δA P / (1 - 3) and its adjoint.
    rest = identity - space
    half = space @ weights @ rest / (1 - 3)
    assert_close(fb.grad(projection)(a), (half + half.conj().T).conj(), 1e-12)


def test_eigh_vjp_does_not_guess_at_ties():
    """V g(λ) Vᴴ in any direction at the identity: the cotangents do not hold g', and the answer is NaN, not wrong."""

    def entry(a):
        w, v = jnp.linalg.eigh(a)
        return ((v * jnp.sqrt(w)[None]) @ v.T)[0, 1]

    assert jnp.isnan(fb.grad(entry)(jnp.eye(3))).all()
    hessian = fb.hessian(lambda a: jnp.sum(jnp.linalg.eigvalsh(a) ** 2))(jnp.eye(2))
    assert jnp.isnan(hessian).any()
    vector = fb.grad(lambda a: jnp.linalg.eigh(a)[1][0, 1])(jnp.eye(3))
    assert jnp.isnan(vector).any()


def test_eig_vjp_at_ties():
    a = jnp.diag(jnp.array([1.0, 1.0, 2.0])) + jnp.zeros((3, 3)).at[0, 2].set(0.5)

    def squares(a):
        return jnp.sum(jnp.linalg.eigvals(a) ** 2).real

    def rebuilt(a):
        w, v = jnp.linalg.eig(a)
        return jnp.trace((v * jnp.exp(w)[None]) @ jnp.linalg.inv(v)).real

    assert_close(fb.grad(squares)(a), 2 * a.T, 1e-12)
    assert_close(fb.grad(rebuilt)(a), jax.scipy.linalg.expm(a).T, 1e-12)


def test_a_planted_error_is_found(monkeypatch):
    pullback = eigen.eigh_pullback
    monkeypatch.setattr(eigen, "eigh_pullback", lambda v, w, dv, dw: pullback(v, w, dv, dw * 1.001))
    with pytest.raises(AssertionError, match="relative error"):
        check_first(lambda a: lax.linalg.eigh(2.0 * a), positive(2))
