"""Gradients of which all cancels, at repeated eigenvalues and beside them: rounding is told, no rule is accused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict
from fnbackprop.rules.linear_algebra import eigen

HELD = (Verdict.PASS, Verdict.NOISE_LIMITED)
Q = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
NEARLY_TIED = np.float32(Q * [1, 1, 2, 3] @ Q.T)
NEARLY_TIED = (NEARLY_TIED + NEARLY_TIED.T) / 2
POINTS = {"zeros": np.zeros((4, 4)), "ones": np.ones((4, 4)), "nearly tied": NEARLY_TIED}


def values_and_trace(a, **options):
    return jnp.sum(jnp.linalg.eigh(a, **options)[0]) - jnp.trace(a)


def squares_of_vectors(a):
    return jnp.sum(jnp.linalg.eigh(a)[1] ** 2)


def recomposed(a):
    values, vectors = jnp.linalg.eigh(a)
    return jnp.sum(((vectors * values[None]) @ vectors.T - a) ** 2)


@pytest.mark.parametrize("float64", [False, True])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("fun", [values_and_trace, squares_of_vectors, recomposed])
def test_a_gradient_of_which_all_cancels_is_no_failure(fun, point, float64):
    result = compare(fun, np.float32(POINTS[point]), float64=float64)
    assert result.verdict in HELD and not result.equations, result


def test_either_triangle_and_a_complex_matrix():
    for fun in (
        lambda a: values_and_trace(a, UPLO="U", symmetrize_input=False),
        jax.jit(values_and_trace),
        lambda a: jnp.sum(jax.vmap(values_and_trace)(jnp.stack([a, 2 * a]))),
        lambda a: jnp.sum(jnp.abs(jnp.linalg.eigh(jax.lax.complex(a, a - a.T))[1]) ** 2),
    ):
        result = compare(fun, jnp.float32(NEARLY_TIED), directions=0)
        assert result.verdict in HELD and not result.equations, result


def test_a_cholesky_factor_that_is_next_to_having_none():
    result = compare(lambda a: jnp.sum(jnp.linalg.cholesky(a)), jnp.float32([[1, 1], [1, 1.0000002]]), directions=0)
    assert not result.equations, result


@pytest.mark.parametrize("wrong", [lambda A: 1.001 * A, lambda A: A.T], ids=["scale", "triangle"])
@pytest.mark.parametrize("point", ["ones", "nearly tied"])
def test_a_wrong_rule_is_still_named_there(monkeypatch, wrong, point):
    right = eigen.lower_triangle_adjoint
    monkeypatch.setattr(eigen, "lower_triangle_adjoint", lambda A: wrong(right(A)))
    jax.clear_caches()
    found = compare(lambda a: squares_of_vectors(a) + values_and_trace(a), jnp.float32(POINTS[point]), directions=0)
    jax.clear_caches()
    assert found.verdict is Verdict.FAIL and found.equations[0].primitive == "eigh", found


def test_a_gradient_that_does_not_cancel_fails():
    @jax.custom_vjp
    def total(a):
        return jnp.sum(jnp.linalg.eigvalsh(a))

    total.defvjp(lambda a: (total(a), a), lambda a, dy: (1.01 * dy * jnp.eye(len(a)),))
    for point in POINTS.values():
        assert compare(lambda a: total(a) - jnp.trace(a), jnp.float32(point)).verdict is Verdict.FAIL


def test_the_noise_of_a_gradient_beside_a_nan_of_jax():
    """Two pairs of equal eigenvalues: JAX divides by their differences, of zero."""
    blocks = jnp.kron(jnp.eye(2), jnp.array([[2.0, 1.0], [1.0, 3.0]]))
    assert compare(recomposed, blocks).verdict is not Verdict.FAIL


def test_a_gradient_that_is_nan_in_its_dtype_alone():
    """In float32 the cube of 1e-20 is 0, and the branch of it not taken."""

    def fun(x):
        cube = (x * 1e-20) ** 3
        return jnp.sum(jnp.where(cube > 0, jnp.exp(jnp.log(cube) / 3) * 1e20, x))

    result = compare(fun, jnp.float32([1.0, 1.5]), rules=False)
    assert result.numeric.verdict is Verdict.NON_FINITE and "run in float64" in result.numeric.reason, result
    assert result.verdict is Verdict.NON_FINITE
    always = compare(lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0)), jnp.float32([0.0, 1.0]), rules=False)
    assert "run in float64" not in always.numeric.reason
