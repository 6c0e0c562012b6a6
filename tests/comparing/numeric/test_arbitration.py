"""Where JAX's derivative is wrong, differences say so, and the manual gradient is not accused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import ad

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.comparing.equations.check import COMPILED
from fnbackprop.comparing.numeric.arbitration import REASON, follows_manual, settled, settled_value
from fnbackprop.comparing.numeric.differences import LeafNumeric
from fnbackprop.comparing.numeric.directions import DirectionalEvaluator
from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.results import Check, LeafComparison, NumericComparison, Property, Verdict

X = jnp.asarray([1 + 2j, -0.5 + 1j, 2 - 1j], "complex64")
WEIGHTS = jnp.asarray([1 - 1j, 2 + 0.5j, 0.3 + 1j], "complex64")


def turned(x):
    return jnp.sum(jnp.real(WEIGHTS * lax.sign(x)))


@pytest.fixture
def wrong_jax(monkeypatch):
    """JAX 0.10.2 takes the derivative of a complex sign as zero; newer ones do again."""

    def zero(primals, tangents):
        y = lax.sign(*primals)
        return y, jnp.zeros_like(y)

    monkeypatch.setitem(ad.primitive_jvps, lax.sign_p, zero)
    monkeypatch.setattr(COMPILED, "compiled", {})


@pytest.mark.parametrize("x, verdict", [(X, Verdict.PASS), (X.at[1].set(0), Verdict.UNBOUNDED)])
def test_a_right_gradient_is_not_accused_where_jax_is_wrong(wrong_jax, x, verdict):
    """At 0 a complex sign has no derivative, but what the two disagree on is elsewhere."""
    result = fb.compare(turned, x)
    assert result.verdict is verdict and result.leaves[0].reason == REASON
    assert any("jax.grad is wrong" in note for note in result.notes)


@pytest.mark.parametrize("x", [X, X.at[1].set(0)])
def test_a_wrong_gradient_fails_where_jax_is_wrong(wrong_jax, plant, x):
    """Planted: the rule twice too large, so that neither agrees with differences."""
    plant("sign")

    @registry.vjp_rule("sign")
    def sign_vjp(dy, x, y):
        along = lax.mul(lax.conj(y), lax.convert_element_type(lax.real(lax.mul(dy, y)), y.dtype))
        size = lax.convert_element_type(lax.abs(x), y.dtype)
        return jnp.where(x == 0, 0, 2 * lax.div(lax.sub(dy, along), jnp.where(x == 0, 1, size)))

    assert fb.compare(turned, x).verdict is Verdict.FAIL


LEAF = LeafComparison("w", (3,), "float32", Verdict.FAIL, error=1.0, allowed=1e-6)
NUMERIC = NumericComparison(Verdict.PASS, "", 4, 1e-9, 1.0, 1e-8)


@pytest.mark.parametrize(
    "leaf, one, odd, numeric, expected",
    [
        (Verdict.FAIL, LeafNumeric(True, False, 1e-8), {0}, Verdict.PASS, Verdict.PASS),
        (Verdict.NON_FINITE, LeafNumeric(True, False, 1e-8), {0}, Verdict.PASS, Verdict.PASS),
        (Verdict.FAIL, None, {0}, Verdict.PASS, Verdict.PASS),
        (Verdict.FAIL, LeafNumeric(True, False, 1e-8), set(), Verdict.PASS, Verdict.FAIL),
        (Verdict.FAIL, LeafNumeric(False, False, 1e-8), {0}, Verdict.PASS, Verdict.FAIL),
        (Verdict.FAIL, LeafNumeric(True, False, 1e-8), {0}, Verdict.KINK, Verdict.PASS),
        (Verdict.FAIL, LeafNumeric(True, False, 1e-8), {0}, Verdict.FAIL, Verdict.FAIL),
    ],
)
def test_only_differences_that_agree_with_manual_alone_settle_it(leaf, one, odd, numeric, expected):
    leaves, notes = settled(
        [dataclasses.replace(LEAF, verdict=leaf)], [one], odd, dataclasses.replace(NUMERIC, verdict=numeric)
    )
    assert leaves[0].verdict is expected and bool(notes) == (expected is not leaf)


FUNCTION = make_program(lambda x: jnp.sum(x**2), (jnp.float32([1.0, 2.0, 0.0]),), 0, None)
RIGHT, NAN = np.float32([2.0, 4.0, 0.0]), np.float32([2.0, 4.0, np.nan])


@pytest.mark.parametrize(
    "manual, automatic, expected",
    [
        (RIGHT, RIGHT * np.float32([1, 1.001, 1]), True),
        (RIGHT * np.float32([1, 1.001, 1]), RIGHT, False),
        (RIGHT * np.float32([1, 1.001, 1]), RIGHT * np.float32([0.999, 1, 1]), False),
        (RIGHT, RIGHT, False),
        (RIGHT, NAN, True),
        (RIGHT + np.float32([0, 0, 1]), NAN, False),
        (NAN, RIGHT, False),
    ],
)
def test_the_function_follows_manual_along_the_difference(manual, automatic, expected):
    assert (
        follows_manual(DirectionalEvaluator(FUNCTION, trace_program(FUNCTION)), (manual,), (automatic,), 0, 1e-6)
        is expected
    )


@pytest.mark.parametrize("plain, expected", [(Verdict.PASS, Verdict.PASS), (Verdict.FAIL, Verdict.FAIL)])
def test_the_value_is_that_of_the_function_itself(plain, expected):
    assert settled_value(LEAF, [Check(Property.SAME_VALUE, plain)]).verdict is expected
    assert settled_value(LEAF, []).verdict is Verdict.FAIL


def test_the_derivative_of_a_gamma_sample_is_not_that_of_its_sampler():
    """Differences of a rejection sampler are no evaluator: told, and no FAIL."""
    result = fb.compare(lambda a: jnp.sum(jax.random.gamma(jax.random.key(1), a)), jnp.float32([0.7, 1.3]))
    assert result.ok and any("random_gamma" in line for line in result.intended)
