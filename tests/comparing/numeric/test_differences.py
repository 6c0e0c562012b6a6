"""Differences of a function against two gradients: whom they follow, leaf by leaf, and what they do not blame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.comparing.numeric.differences import Subject, compare_numeric
from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.results import Verdict
from fnbackprop.comparing.tolerance import facts_of

X, Y = np.array([0.5, -1.0, 2.0], np.float32), np.array([1.0, 3.0], np.float32)


def loss(x, y):
    return jnp.sum(jnp.sin(x)) * jnp.sum(y**2)


def differences(fun, args, manual=1.0, automatic=1.0, leaves=True, disputed=(), replaced=()):
    """What they say of the gradient times `manual`, and times `automatic`; a tuple gives one factor for each leaf."""
    program = make_program(fun, args, tuple(range(len(args))), None)
    gradient = jax.grad(fun, tuple(range(len(args))))(*args)

    def times(factors):
        factors = factors if isinstance(factors, tuple) else (factors,) * len(args)
        return tuple(f * g for f, g in zip(factors, gradient, strict=True))

    traced = trace_program(program)
    value = (fun(*args), 1e-6)
    subject = Subject(program, traced, facts_of(traced), times(manual), times(automatic), [1e-6] * len(args), value, 0)
    return compare_numeric(subject, 2, leaves, disputed, lambda: replaced)


def test_right_gradients():
    found = differences(loss, (X, Y))
    assert found.comparison.verdict is Verdict.PASS
    assert max(found.comparison.manual, found.comparison.automatic) <= found.comparison.allowed < 1e-4
    assert found.comparison.rate == pytest.approx(2, abs=0.2)  # the remainder falls as the square of the step
    assert all(leaf.manual and leaf.automatic and leaf.bound < 1e-3 for leaf in found.each)
    assert (found.notes, found.intended, found.automatic_wrong) == ([], [], set())
    assert differences(loss, (X, Y), leaves=False).each == [None, None]


def test_a_wrong_gradient_and_whom_the_function_follows():
    found = differences(loss, (X, Y), manual=(1.0, 1.1))
    assert (
        found.comparison.verdict is Verdict.FAIL and "agree with automatic, not with manual" in found.comparison.reason
    )
    assert [leaf.manual for leaf in found.each] == [True, False]
    assert all(leaf.automatic for leaf in found.each)
    neither = differences(loss, (X, Y), manual=1.1, automatic=0.9)
    assert "with neither: a rule is wrong" in neither.comparison.reason
    found = differences(loss, (X, Y), automatic=(1.1, 1.0), disputed=[0])
    assert found.comparison.verdict is Verdict.PASS and found.automatic_wrong == {0}


def test_a_stopped_gradient_is_no_mistake():
    found = differences(lambda x: jnp.sum(x * lax.stop_gradient(x)), (X,))
    assert found.comparison.verdict is Verdict.PASS
    assert len(found.intended) == 1 and "the gradient is stopped at" in found.intended[0]
    assert "test_differences.py" in found.intended[0]


def test_at_a_kink_the_gradient_lies_between_the_slopes():
    tied = (np.array([1.0, 1.0, 0.0], np.float32),)
    found = differences(jnp.max, tied).comparison
    assert found.verdict is Verdict.KINK and "from one side and" in found.reason
    found = differences(jnp.max, tied, manual=9.0).comparison
    assert found.verdict is Verdict.FAIL and "the gradient's slope does not lie between them" in found.reason


def test_a_rule_that_replaces_a_derivative_on_purpose():
    found = differences(loss, (X, Y), manual=1.5, automatic=1.5, replaced=["a.py:1"])
    assert found.comparison.verdict is Verdict.PASS and found.intended == ["a.py:1"]


def test_gradients_that_are_infinite_in_two_leaves():
    """Their product with a direction is inf - inf."""

    @jax.custom_vjp
    def infinite(x, y):
        return x * y

    infinite.defvjp(lambda x, y: (x * y, None), lambda _, dz: (dz * np.inf, -dz * np.inf))
    result = fb.compare(lambda x, y: jnp.sum(infinite(x, y)), jnp.ones(3), 2 * jnp.ones(3), argnums=(0, 1))
    assert result.verdict is Verdict.FAIL and "infinite" in str(result)


@pytest.mark.parametrize("norm", [jnp.sum, lambda x: jnp.sum(x**2), jnp.linalg.norm])
@pytest.mark.parametrize("zero", ["v", "w", "both"])
def test_a_product_that_is_quadratic_in_an_operand_of_zeros(norm, zero):
    """Differences are symmetric there: their slope is that of rounding alone, or zero."""
    v, w, a = (np.float32(np.random.default_rng(i).normal(size=s)) for i, s in enumerate([(4, 3), (3, 3), (4, 4)]))
    v, w = v * (zero == "w"), w * (zero == "v")
    result = fb.compare(lambda v, w, a: norm(v @ w @ v.T - a), v, w, a, argnums=(0, 1, 2), progress=False)
    assert result.verdict is Verdict.PASS, str(result)
