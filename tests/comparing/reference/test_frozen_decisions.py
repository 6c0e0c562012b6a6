"""Decisions by comparison, in a run on pairs: those of the low-precision run, with the derivatives of JAX's rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.comparing.reference.frozen_decisions import FROZEN_DECISIONS
from fnbackprop.comparing.reference.pairs import float64_dtype, high_half
from fnbackprop.jaxprs.evaluate import bind, interpret
from fnbackprop.jaxprs.types import Literal

pytestmark = pytest.mark.usefixtures("x64")
TIED = jnp.array([[1.0, 1.0, -2.0]], jnp.float32)
OTHER = jnp.array([[1.0, 0.5, 3.0]], jnp.float32)

CASES = {
    "max": (lax.max, TIED, OTHER),
    "min": (lax.min, TIED, OTHER),
    "reduce_max": (lambda x: lax.reduce_max(x, (1,)), TIED),
    "reduce_min": (lambda x: lax.reduce_min(x, (1,)), OTHER),
    "abs": (lax.abs, TIED),
    "bessel_i0e": (lax.bessel_i0e, OTHER),
    "clamp": (lambda x: lax.clamp(np.asarray(-1, x.dtype), x, np.asarray(0.9, x.dtype)), TIED),
    "sign": (lax.sign, TIED),
    "sign of complex": (lax.sign, lax.complex(TIED, OTHER)),
    "floor": (lax.floor, OTHER),
    "round": (lax.round, OTHER),
    "rem": (lambda x, y: lax.rem(x, y), OTHER, jnp.full((1, 3), 0.7, jnp.float32)),
    "sort": (lambda x: lax.sort(x, dimension=1), OTHER),
    "top_k": (lambda x: lax.top_k(x, 2)[0], OTHER),
    "reduce_precision": (lambda x: lax.reduce_precision(x, 5, 3), OTHER),
    "convert_element_type": (lambda x: x.astype(jnp.bfloat16), OTHER),
}
ROUNDED = ("reduce_precision", "convert_element_type")


def high_run(fun, lows):
    """`fun`, of one equation, as a function of the operands' high halves; and its low value."""

    def read(env, atom):
        return (atom.val, high_half(atom.val)) if isinstance(atom, Literal) else env[atom]

    def apply(equation, pairs):
        outputs = bind(equation, [low for low, _ in pairs])
        return FROZEN_DECISIONS[equation.primitive.name](equation, pairs, outputs)

    closed = jax.make_jaxpr(fun)(*lows)
    consts = [(x, high_half(x)) for x in closed.consts]

    def run(*highs):
        return interpret(closed.jaxpr, consts, list(zip(lows, highs, strict=True)), apply, read)[0][1]

    return run, fun(*lows)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_jax(name):
    fun, *lows = CASES[name]
    run, low = high_run(fun, lows)
    highs = [high_half(x) for x in lows]
    dtype = float64_dtype(low.dtype)
    ct = np.random.default_rng(0).normal(size=low.shape).astype(dtype)

    @jax.jit
    def both(ct, *highs):
        value, pullback = jax.vjp(run, *highs)
        want = (ct,) if name in ROUNDED else jax.vjp(fun, *highs)[1](ct)  # in float64 nothing is rounded
        return value, pullback(ct), want

    value, cotangents, want = both(ct, *highs)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, np.asarray(low, dtype), rtol=0.1 if name in ROUNDED else 1e-6)
    for found, expected in zip(cotangents, want, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_complex_numbers_in_lexicographic_order():
    """Of which JAX 0.12 has no derivative of max."""
    x, y = jnp.array([1 + 1j, 1 + 1j, 2 + 5j], "complex64"), jnp.array([1 + 1j, 1 + 0j, 3 - 1j], "complex64")
    for function, shares in ((lax.max, [0.5, 1, 0]), (lax.min, [0.5, 0, 1])):
        run, low = high_run(function, [x, y])
        value, pull = jax.vjp(run, high_half(x), high_half(y))
        np.testing.assert_array_equal(value, low)
        first, second = pull(jnp.ones(3, "complex128"))
        np.testing.assert_array_equal(first, shares)
        np.testing.assert_array_equal(first + second, np.ones(3))


def test_the_decision_is_that_of_the_low_precision():
    """1 + 1e-9 and 1 tie in float32, whose run is kept: each gets half, though the first is larger."""
    run, _ = high_run(lax.max, [jnp.float32(1 + 1e-9), jnp.float32(1)])
    assert jax.grad(run, (0, 1))(1 + 1e-9, 1.0) == (0.5, 0.5)
