"""Where JAX's derivative is wrong, differences say so, and the manual gradient is not accused."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.comparing.contract import SAME_VALUE
from fnbackprop.comparing.numeric import LeafNumeric
from fnbackprop.comparing.odd_one_out import REASON, settled, settled_value
from fnbackprop.comparing.progress import first_line
from fnbackprop.comparing.verdict import Check, LeafComparison, NumericComparison, Verdict

X = jnp.asarray([1 + 2j, -0.5 + 1j, 2 - 1j], "complex64")
WEIGHTS = jnp.asarray([1 - 1j, 2 + 0.5j, 0.3 + 1j], "complex64")


def turned(x):
    """JAX takes the derivative of a complex sign as zero."""
    return jnp.sum(jnp.real(WEIGHTS * lax.sign(x)))


def test_a_right_gradient_passes_where_jax_is_wrong():
    result = fb.compare(turned, X)
    assert result.ok and result.leaves[0].reason == REASON
    assert any("jax.grad is wrong" in note for note in result.notes)


def test_a_wrong_gradient_fails_where_jax_is_wrong(monkeypatch):
    """Planted: the rule twice too large, so that neither agrees with differences."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry._entries.pop("sign")

    @registry.vjp_rule("sign")
    def sign_vjp(dy, x, y):
        along = lax.mul(lax.conj(y), lax.convert_element_type(lax.real(lax.mul(dy, y)), y.dtype))
        return 2 * lax.div(lax.sub(dy, along), lax.convert_element_type(lax.abs(x), y.dtype))

    assert fb.compare(turned, X).verdict is Verdict.FAIL


LEAF = LeafComparison("w", (3,), "float32", Verdict.FAIL, error=1.0, allowed=1e-6)
NUMERIC = NumericComparison(Verdict.PASS, "", 4, 1e-9, 1.0, 1e-8)


@pytest.mark.parametrize(
    "leaf, one, numeric, expected",
    [
        (Verdict.FAIL, LeafNumeric(True, False, 1e-8), Verdict.PASS, Verdict.PASS),
        (Verdict.NON_FINITE, LeafNumeric(True, False, 1e-8), Verdict.PASS, Verdict.PASS),
        (Verdict.FAIL, LeafNumeric(True, True, 1e-8), Verdict.PASS, Verdict.FAIL),
        (Verdict.FAIL, LeafNumeric(False, False, 1e-8), Verdict.PASS, Verdict.FAIL),
        (Verdict.FAIL, None, Verdict.PASS, Verdict.FAIL),
        (Verdict.FAIL, LeafNumeric(True, False, 1e-8), Verdict.KINK, Verdict.FAIL),
        (Verdict.NOISE_LIMITED, LeafNumeric(True, False, 1e-8), Verdict.PASS, Verdict.NOISE_LIMITED),
    ],
)
def test_only_differences_that_agree_with_manual_alone_settle_it(leaf, one, numeric, expected):
    leaves, notes = settled(
        [dataclasses.replace(LEAF, verdict=leaf)], [one], dataclasses.replace(NUMERIC, verdict=numeric)
    )
    assert leaves[0].verdict is expected and bool(notes) == (expected is not leaf)


@pytest.mark.parametrize("plain, expected", [(Verdict.PASS, Verdict.PASS), (Verdict.FAIL, Verdict.FAIL)])
def test_the_value_is_that_of_the_function_itself(plain, expected):
    assert settled_value(LEAF, [Check(SAME_VALUE, plain)]).verdict is expected
    assert settled_value(LEAF, []).verdict is Verdict.FAIL


def test_the_derivative_of_a_gamma_sample_is_not_that_of_its_sampler():
    """Differences of a rejection sampler are no witness: told, and no FAIL."""
    result = fb.compare(lambda a: jnp.sum(jax.random.gamma(jax.random.key(1), a)), jnp.float32([0.7, 1.3]))
    assert result.ok and any("random_gamma" in line for line in result.intended)


def test_an_error_without_a_message_is_told():
    assert first_line(AssertionError()) == "AssertionError" and first_line(ValueError("a\nb")) == "ValueError: a"
