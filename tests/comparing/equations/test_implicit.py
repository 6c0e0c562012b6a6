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
    def refuse(visit):
        raise AssertionError("it was solved once more")

    monkeypatch.setattr(implicit, "_residual", refuse)
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
