"""With which of two cotangents of an equation its differences agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_a_kink_is_one():
    found = differences(evidence_of(jnp.abs, np.zeros(1, np.float32)), 0, np.ones(1), -np.ones(1))
    assert found.shape is Verdict.KINK and found.reason


def test_what_cannot_be_run_says_nothing():
    evidence = evidence_of(jnp.sin, X)._replace(operands=["not an array"])
    assert differences(evidence, 0, RIGHT, RIGHT).who is Agreement.UNKNOWN
