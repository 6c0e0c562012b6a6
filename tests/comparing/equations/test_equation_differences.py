"""With which of two cotangents of an equation its differences agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.comparing.equations.check import EquationCheck, Evidence
from fnbackprop.comparing.equations.equation_differences import differences
from fnbackprop.comparing.results import Agreement, Cotangent, Verdict

X = np.linspace(0.5, 1.5, 6, dtype=np.float32)
RIGHT, WRONG = np.cos(X.astype(float)), -np.cos(X.astype(float))


def evidence_of(function, x):
    """Of the one equation of a function, with a cotangent of ones."""
    equation = jax.make_jaxpr(function)(x).jaxpr.eqns[-1]
    check = EquationCheck(equation, (True,), False, users_mode=False)
    return Evidence(check, [jnp.asarray(x)], [jnp.ones_like(x)], [], Cotangent.ACTUAL, None)


@pytest.mark.parametrize("ours, theirs, who", [
    (RIGHT, RIGHT, Agreement.BOTH),
    (RIGHT, WRONG, Agreement.MANUAL),
    (WRONG, RIGHT, Agreement.AUTOMATIC),
    (WRONG, 2 * RIGHT, Agreement.NEITHER),
])  # fmt: skip
def test_who_is_right(ours, theirs, who):
    found = differences(evidence_of(jnp.sin, X), 0, ours, theirs)
    assert (found.who, found.shape) == (who, Verdict.PASS)


def test_an_error_that_the_programs_precision_would_hide_is_seen():
    found = differences(evidence_of(jnp.sin, X), 0, RIGHT * (1 + 1e-5), RIGHT)
    assert found.who is Agreement.AUTOMATIC


def test_rounding_of_ours_is_no_disagreement():
    """An equation that holds a jaxpr (jit) runs our rules in its own precision, and the automatic ones in float64."""
    rounded = RIGHT * (1 + 5e-7)
    assert differences(evidence_of(jnp.sin, X), 0, rounded, WRONG).who is Agreement.NEITHER
    assert differences(evidence_of(jnp.sin, X), 0, rounded, WRONG, noise=5e-7).who is Agreement.MANUAL
    assert differences(evidence_of(jnp.sin, X), 0, RIGHT * (1 + 1e-5), WRONG, noise=5e-7).who is Agreement.NEITHER


def test_where_the_automatic_derivative_is_wrong_ours_may_be_rounded():
    """That of `cho_factor` is, in the triangle that is not read; with these numbers rounding tells more than usual."""
    random = np.random.default_rng(35)
    root = random.normal(size=(3, 3)).astype(np.float32)
    right, weights = random.normal(size=(2, 3)).astype(np.float32)

    def loss(a):
        return jnp.sum(weights * jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a), right))

    matrix = root @ root.T / 3 + np.eye(3, dtype=np.float32)
    assert fb.compare(loss, matrix, progress=False).verdict is Verdict.PASS


def test_a_kink_is_one():
    found = differences(evidence_of(jnp.abs, np.zeros(1, np.float32)), 0, np.ones(1), -np.ones(1))
    assert found.shape is Verdict.KINK and found.reason


def test_what_cannot_be_run_says_nothing():
    evidence = evidence_of(jnp.sin, X)._replace(operands=["not an array"])
    assert differences(evidence, 0, RIGHT, RIGHT).who is Agreement.UNKNOWN
