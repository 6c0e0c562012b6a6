"""What has an implicit derivative: linear solves that stop early, and factorizations that read one triangle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.comparing.equations import implicit
from fnbackprop.comparing.results import Verdict

RANDOM = np.random.default_rng(0)
ROOT = RANDOM.normal(size=(4, 4))
MATRIX, RIGHT = jnp.asarray(np.eye(4) + ROOT @ ROOT.T / 4), jnp.asarray(RANDOM.normal(size=4))


def conjugate_gradients(matrix, right):
    return jnp.sum(jax.scipy.sparse.linalg.cg(matrix, right)[0] ** 2)


@pytest.mark.usefixtures("x64")
def test_a_solver_that_stops_early_is_told_and_passes():
    matrix, right = np.asarray(MATRIX, "float64"), np.asarray(RIGHT, "float64")
    result = fb.compare(conjugate_gradients, matrix, right, argnums=(0, 1))
    assert result.verdict is Verdict.PASS, str(result)
    (said,) = result.intended
    assert "custom_linear_solve at" in said and "exact solution" in said and "test_implicit.py" in said


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "solve", [jnp.linalg.solve, lambda a, b: jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a), b)]
)
def test_a_direct_solver_excuses_nothing(solve):
    """Nor is a gradient that is stopped elsewhere excused by it."""
    matrix, right = np.asarray(MATRIX, "float64"), np.asarray(RIGHT, "float64")
    result = fb.compare(lambda a, b: jnp.sum(solve(a, b) ** 2), matrix, right, argnums=(0, 1))
    assert result.verdict is Verdict.PASS and not result.intended, str(result)


@pytest.mark.usefixtures("x64")
def test_a_wrong_rule_beside_such_a_solver_is_found():
    @jax.custom_vjp
    def scaled(x):
        return 3.0 * x

    scaled.defvjp(lambda x: (3.0 * x, None), lambda _, dy: (2.0 * dy,))
    matrix, right = np.asarray(MATRIX, "float64"), np.asarray(RIGHT, "float64")
    result = fb.compare(lambda a, b: conjugate_gradients(a, scaled(b)), matrix, right, argnums=(0, 1))
    assert result.verdict is Verdict.FAIL, str(result)


@pytest.mark.usefixtures("x64")
def test_no_system_is_solved_again_unless_differences_disagree(monkeypatch):
    def refuse(system):
        raise AssertionError("it was solved once more")

    monkeypatch.setattr(implicit, "unsolved", refuse)
    matrix, right = np.asarray(MATRIX, "float64"), np.asarray(RIGHT, "float64")
    result = fb.compare(lambda a, b: jnp.sum(jnp.linalg.solve(a, b) ** 2), matrix, right, argnums=(0, 1))
    assert result.verdict is Verdict.PASS and not result.intended, str(result)
    with pytest.raises(AssertionError, match="once more"):
        fb.compare(conjugate_gradients, matrix, right, argnums=(0, 1))


def newton(fun, start):
    slope = jax.grad(lambda x: jnp.sum(fun(x)))
    return jax.lax.while_loop(lambda x: jnp.any(abs(fun(x)) > 1e-4), lambda x: x - fun(x) / slope(x), start)


def cube_root(a):
    """By `lax.custom_root`, which hands `a` to the function and to the solver."""
    found = jax.lax.custom_root(lambda x: x**3 - a, jnp.ones_like(a), newton, lambda g, y: y / g(jnp.ones_like(y)))
    return jnp.sum(found)


@jax.custom_vjp
def square_root(a):
    return newton(lambda x: x * x - a, jnp.ones_like(a))


square_root.defvjp(lambda a: (square_root(a), square_root(a)), lambda root, dy: (dy / (2 * root),))


@pytest.mark.parametrize(
    "fun", [cube_root, lambda a: jnp.sum(square_root(a)), lambda a: jnp.sum(jax.vmap(square_root)(a))]
)
def test_roots_by_steps_that_stop_early(fun):
    result = fb.compare(fun, np.array([1.5, 2.0, 3.0], "float32"))
    assert result.verdict is Verdict.PASS, str(result)


# ---------------------------------------------------------------- solvers that are wrong


def system(solve, transpose_solve=None):
    """A loss of the solution of a system by this solver, which is handed the matrix, and the right-hand side."""

    def loss(matrix, right):
        held = jax.lax.stop_gradient(matrix)
        x = jax.lax.custom_linear_solve(
            lambda x: matrix @ x,
            right,
            lambda apply, b: solve(held, b, apply),
            lambda apply, b: (transpose_solve or solve)(held.T, b, apply),
        )
        return jnp.sum(x**3)

    return loss


def directly(matrix, right, apply):
    return jnp.linalg.solve(matrix, right)


def by_steps(matrix, right, apply):
    diagonal = 2 * jnp.diag(matrix)
    return jax.lax.fori_loop(0, 80, lambda _, x: x + (right - apply(x)) / diagonal, jnp.zeros_like(right))


def until_small(matrix, right, apply):
    return jax.scipy.sparse.linalg.bicgstab(apply, right)[0]


SOLVERS = [directly, by_steps, until_small]
SKEW = np.asarray(MATRIX + np.triu(ROOT) / 10, "float32")


def times(factor, solve):
    return lambda *given: factor * solve(*given)


def damped(matrix, right, apply):
    return jnp.linalg.solve(matrix + 1e-2 * jnp.eye(4), right)


def compared(loss):
    return fb.compare(loss, SKEW, np.asarray(RIGHT, "float32"), argnums=(0, 1))


@pytest.mark.parametrize("solve", SOLVERS)
def test_right_solvers_pass(solve):
    result = compared(system(solve))
    assert result.verdict is Verdict.PASS, str(result)


@pytest.mark.parametrize("wrong", [*(times(1.01, solve) for solve in SOLVERS), damped])
def test_a_solver_that_does_not_solve_its_system_is_named(wrong):
    result = compared(system(wrong, directly))
    assert result.verdict is Verdict.FAIL, str(result)
    (found,) = result.equations
    assert found.primitive == "custom_linear_solve" and "test_implicit.py" in found.where
    assert "what solve returns does not satisfy matvec(x) = b" in found.reason, found.reason


@pytest.mark.parametrize("wrong", [*(times(1.01, solve) for solve in SOLVERS), damped])
def test_so_is_one_of_the_transposed_system(wrong):
    result = compared(system(directly, wrong))
    assert result.verdict is Verdict.FAIL, str(result)
    assert "what transpose_solve returns does not satisfy vecmat(x) = b" in result.equations[0].reason, str(result)


@pytest.mark.parametrize("around", [jax.checkpoint, jax.jit, "vmap", "scan"])
def test_a_wrong_solver_inside(around):
    loss, many = system(times(1.01, directly)), np.stack([np.asarray(RIGHT, "float32")] * 3)
    if around == "vmap":
        result = compared(lambda a, b: jnp.sum(jax.vmap(lambda x: loss(a, x * b))(many)))
    elif around == "scan":
        result = compared(lambda a, b: jax.lax.scan(lambda c, x: (c + loss(a, x * b), None), 0.0, many)[0])
    else:
        result = compared(around(loss))
    assert result.verdict is Verdict.FAIL and result.equations[0].primitive == "custom_linear_solve", str(result)


def test_a_solver_declared_as_intended_passes():
    loss, right = system(times(1.01, directly)), np.asarray(RIGHT, "float32")
    result = fb.compare(loss, SKEW, right, argnums=(0, 1), intended=("custom_linear_solve",))
    assert result.verdict is Verdict.PASS and "a residual of" in result.intended[-1], str(result)


@pytest.mark.parametrize("solver", ["cg", "bicgstab", "gmres"])
@pytest.mark.parametrize("settings", [{}, {"tol": 1e-2}, {"maxiter": 2}], ids=str)
def test_iterative_solvers_that_stop_early_are_not_accused(solver, settings):
    """Their steps are rough along the matrix alone, too."""
    solve, random = getattr(jax.scipy.sparse.linalg, solver), np.random.default_rng(1)
    root = random.normal(size=(20, 20))
    matrix, right = np.float32(5 * np.eye(20) + root @ root.T), np.float32(random.normal(size=20))
    result = fb.compare(
        lambda a, b: jnp.sum(solve(lambda x: a @ x, b, **settings)[0] ** 3), matrix, right, argnums=(0, 1)
    )
    assert result.verdict in (Verdict.PASS, Verdict.NOISE_LIMITED), str(result)


def test_an_inverse_is_less_exact_than_a_solver_and_no_wrong_one():
    matrix = np.float32(1 / (np.arange(6)[:, None] + np.arange(6) + 1.0) + 1e-4 * np.eye(6))
    result = fb.compare(
        system(lambda a, b, apply: jnp.linalg.inv(a) @ b), matrix, np.float32(RANDOM.normal(size=6)), argnums=(0, 1)
    )
    assert not result.equations, str(result)
