"""triangular_solve, tridiagonal_solve and custom_linear_solve, and what JAX builds of them."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop import registry

from ..checking import assert_close, check_vjp
from .matrix_cases import DTYPES, apart, check_deep, check_first, check_numeric_parts, normal, positive

pytestmark = pytest.mark.usefixtures("x64")
FLAGS = ("left_side", "lower", "transpose_a", "conjugate_a", "unit_diagonal")


def strong(n, dtype="float64", lead=()):
    """A matrix with a strong diagonal."""
    return normal(*lead, n, n, dtype=dtype) + jnp.broadcast_to(jnp.asarray(3 * np.eye(n), dtype), (*lead, n, n))


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_triangular_solve_vjp(dtype, left):
    """All sixteen other flags at once."""

    def fun(a, b):
        choices = (
            dict(zip(FLAGS, (left, *flags), strict=True)) for flags in itertools.product([True, False], repeat=4)
        )
        return [lax.linalg.triangular_solve(a, b, **flags) for flags in choices]

    check_first(fun, strong(3, dtype), normal(*((3, 2) if left else (2, 3)), dtype=dtype, seed=1))


@pytest.mark.parametrize("sizes", [(0, 2), (1, 1), (2, 0), (5, 3)], ids=str)
def test_triangular_solve_vjp_of_size(sizes):
    fun = partial(lax.linalg.triangular_solve, left_side=True, lower=True)
    check_first(fun, strong(sizes[0]), normal(*sizes, seed=1))


@pytest.mark.parametrize("active", [0, 1])
def test_triangular_solve_vjp_of_one_operand(active):
    operands = strong(2), normal(2, 3, seed=1)

    def fun(x):
        given = [*operands[:active], x, *operands[active + 1 :]]
        return lax.linalg.triangular_solve(*given, left_side=True, transpose_a=True)

    check_first(fun, operands[active])


def test_triangular_solve_vjp_twice_and_stacked():
    fun = partial(lax.linalg.triangular_solve, left_side=True, lower=True)
    check_deep(fun, strong(3, "complex128"), normal(3, 2, dtype="complex128", seed=1))
    check_first(fun, strong(3, lead=(2,)), normal(2, 3, 2, seed=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 5])
def test_tridiagonal_solve_vjp(n, dtype):
    diagonals = [normal(n, dtype=dtype, seed=seed) for seed in range(3)]
    diagonals[1] = diagonals[1] + 4
    check_first(lax.linalg.tridiagonal_solve, *diagonals, normal(n, 2, dtype=dtype, seed=4))


def test_tridiagonal_solve_vjp_twice_and_stacked():
    diagonals = [normal(2, 4, seed=seed) for seed in range(3)]
    diagonals[1] = diagonals[1] + 4
    check_vjp(lax.linalg.tridiagonal_solve, *diagonals, normal(2, 4, 2, seed=4), dtypes=(), tolerance=10)


# ---------------------------------------------------------------- custom_linear_solve


def lu_solve(a, transposed=False):
    def solve(matvec, b):
        return jnp.linalg.solve(lax.stop_gradient(a.T if transposed else a), b)

    return solve


def linear_solve(transpose=True, symmetric=False, has_aux=False):
    """x with A x = b, as the user of `lax.custom_linear_solve` writes it."""

    def with_aux(solve):
        return (lambda matvec, b: (solve(matvec, b), {"norm": jnp.linalg.norm(b)})) if has_aux else solve

    def fun(a, b):
        out = lax.custom_linear_solve(
            lambda x: a @ x,
            b,
            with_aux(lu_solve(a)),
            transpose_solve=with_aux(lu_solve(a, transposed=True)) if transpose else None,
            symmetric=symmetric,
            has_aux=has_aux,
        )
        return out[0] if has_aux else out

    return fun


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_aux", [False, True])
def test_custom_linear_solve_vjp(has_aux, dtype):
    check_first(linear_solve(has_aux=has_aux), apart(3, 3, dtype), normal(3, dtype=dtype, seed=2))


def test_custom_linear_solve_vjp_twice_and_stacked():
    check_deep(linear_solve(), apart(3, 3), normal(3, seed=2))


def test_custom_linear_solve_vjp_of_a_symmetric_operator():
    check_first(linear_solve(transpose=False, symmetric=True), positive(3), normal(3, seed=2))


@pytest.mark.parametrize("active", [0, 1])
def test_custom_linear_solve_vjp_of_one_operand(active):
    operands = apart(2, 2), normal(2, seed=2)
    check_first(lambda x: linear_solve()(*operands[:active], x, *operands[active + 1 :]), operands[active])


@pytest.mark.parametrize("dtype", DTYPES)
def test_custom_linear_solve_vjp_without_a_transposed_solve(dtype):
    """Where JAX refuses: against the solve by LU."""
    fun, a, b = linear_solve(transpose=False), apart(3, 3, dtype), normal(3, dtype=dtype, seed=2)
    with pytest.raises(TypeError):
        jax.grad(lambda b: jnp.sum(jnp.abs(fun(a, b))))(b)
    check_numeric_parts(fun, a, b)

    def loss(solve, grad):
        return lambda a: jnp.real(jnp.sum(grad(lambda b: jnp.sum(jnp.abs(solve(a, b)) ** 2))(b) ** 2))

    assert_close(fb.grad(loss(fun, fb.grad))(a), jax.grad(loss(jnp.linalg.solve, jax.grad))(a), 1e-11)


def test_custom_linear_solve_vjp_of_a_tree():
    """Unknowns in two leaves, coefficients of the operator closed over, and no transposed solve."""
    a = apart(5, 5)

    def fun(a, scale, b):
        def matvec(x):
            y = scale * (a @ jnp.concatenate([x["u"], x["v"].ravel()]))
            return {"u": y[:3], "v": y[3:].reshape(1, 2)}

        def solve(_, b):
            y = jnp.linalg.solve(a, jnp.concatenate([b["u"], b["v"].ravel()])) / scale
            return {"u": y[:3], "v": y[3:].reshape(1, 2)}

        x = lax.custom_linear_solve(matvec, b, solve)
        return jnp.sum(x["u"] ** 2) + jnp.sum(jnp.sin(x["v"]))

    def direct(a, scale, b):
        x = jnp.linalg.solve(scale * a, jnp.concatenate([b["u"], b["v"].ravel()]))
        return jnp.sum(x[:3] ** 2) + jnp.sum(jnp.sin(x[3:]))

    operands = a, jnp.float64(1.5), {"u": normal(3), "v": normal(1, 2, seed=1)}
    assert_close(fb.grad(fun, (0, 1, 2))(*operands), jax.grad(direct, (0, 1, 2))(*operands), 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shapes", [((3, 3), (3,)), ((3, 3), (3, 2)), ((2, 3, 3), (2, 3, 1)), ((0, 0), (0, 2))], ids=str
)
def test_solve(shapes, dtype):
    a = strong(shapes[0][-1], dtype, shapes[0][:-2])
    check_first(jnp.linalg.solve, a, normal(*shapes[1], dtype=dtype, seed=1))


@pytest.mark.parametrize("name", ["cg", "gmres", "bicgstab"])
def test_iterative_solvers(name):
    """Solved to rounding, the derivative is that of the direct solve."""
    solver = getattr(jax.scipy.sparse.linalg, name)
    a, b = positive(3), normal(3, seed=2)
    precise = partial(solver, tol=1e-14, maxiter=60)

    def loss(solve):
        return lambda a, b: jnp.sum(jnp.sin(solve(a, b)))

    got = fb.grad(loss(lambda a, b: precise(a, b)[0]), (0, 1))(a, b)
    assert_close(got, jax.grad(loss(jnp.linalg.solve), (0, 1))(a, b), 1e-10)


def test_a_planted_error_is_found(plant):
    plant("triangular_solve")

    @registry.vjp_rule("triangular_solve", "a, b -> x")
    def triangular_solve_vjp(dx, a, x, **params):
        return -dx @ x.T, dx

    with pytest.raises(AssertionError, match="relative error"):
        check_first(lambda a, b: lax.linalg.triangular_solve(a, b + 0.5), strong(2), normal(2, 2))
