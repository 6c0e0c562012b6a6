"""The check of one equation: both sides' cotangents, their sizes, and when a compiled check is used again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.comparing.equations.check import (
    COMPILED,
    CompiledChecks,
    EquationCheck,
    cotangents_in_float64,
    manual_cotangents,
)
from fnbackprop.comparing.equations.gaussian_cotangents import GaussianCotangents

X = np.array([0.3, -1.2, 2.0], np.float32)
CT = np.array([1.0, 2.0, -1.0], np.float32)


def check_of(fun, *args, active=None, primal=False):
    """The check of a function's last equation."""
    equation = jax.make_jaxpr(fun)(*args).eqns[-1]
    return EquationCheck(equation, active or (True,) * len(equation.invars), primal, False)


@pytest.fixture
def wrong_sin():
    """A rule of sin that is twice too large, and after the test the right one again."""
    entry = registry._entries["sin"]
    fb.vjp_rule("sin")(lambda dy, x: 2 * dy * jnp.cos(x))
    yield
    registry._put("sin", entry)


def test_both_sides_and_their_sizes(wrong_sin):
    (pair,) = COMPILED.both(check_of(jnp.sin, X), [X], [CT])
    np.testing.assert_allclose(pair.second, CT * np.cos(X), rtol=1e-6)
    np.testing.assert_allclose(pair.first, 2 * CT * np.cos(X), rtol=1e-6)
    top = np.abs(pair.first).max()
    lengths = [np.linalg.norm(v) / top for v in (pair.first - pair.second, pair.first, pair.second)]
    np.testing.assert_allclose(pair.stats, [top, *lengths], rtol=1e-6)
    assert pair.error == pytest.approx(1, rel=1e-6)


def test_an_error_that_is_no_number():
    (pair,) = COMPILED.both(check_of(jnp.log, X), [np.array([1.0, 0.0, 2.0], np.float32)], [CT])
    assert np.isnan(pair.error)
    (pair,) = COMPILED.both(check_of(jnp.sin, X), [X], [0 * CT])
    assert pair.error == 0


def test_a_new_rule_is_checked_anew():
    checks = CompiledChecks()
    same = [check_of(jnp.sin, X), check_of(lambda x: jnp.sin(jnp.cos(x)), X)]
    for check in same:
        checks.both(check, [X], [CT])
    assert len(checks.compiled) == 1
    entry = registry._entries["sin"]
    try:
        fb.vjp_rule("sin")(lambda dy, x: 3 * dy * jnp.cos(x))
        (pair,) = checks.both(same[0], [X], [CT])
    finally:
        registry._put("sin", entry)
    assert pair.error == pytest.approx(2, rel=1e-6) and len(checks.compiled) == 2


def test_only_active_operands():
    check = check_of(lambda x, y: x * y, X, X, active=(False, True))
    assert check.targets == (1,)
    none, dy = manual_cotangents(check, [X, 2 * X], [CT])
    assert none is None
    np.testing.assert_allclose(dy, CT * X)


def test_in_float64_both_sides_agree_beyond_float32(wrong_sin):
    (first,), (second,) = cotangents_in_float64(check_of(jnp.cos, X), [X], [CT])
    assert first.dtype == second.dtype == np.float64
    np.testing.assert_allclose(first, second, rtol=1e-14)
    (first,), (second,) = cotangents_in_float64(check_of(jnp.sin, X), [X], [CT])
    np.testing.assert_allclose(first, 2 * second, rtol=1e-14)
    held, (second,) = cotangents_in_float64(check_of(jax.jit(jnp.sin), X), [X], [CT])
    assert held is None  # its rules run in its own types
    np.testing.assert_allclose(second, CT * np.cos(X.astype(np.float64)), rtol=1e-14)


def test_a_users_rule_beside_its_primal():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, dy: (5 * x * dy,))
    check = check_of(square, X, primal=True)
    (pair,) = COMPILED.both(check, [X], [CT])
    np.testing.assert_allclose((pair.first, pair.second), (5 * X * CT, 2 * X * CT), rtol=1e-6)
    (first,), (second,) = cotangents_in_float64(check, [X], [CT])
    np.testing.assert_allclose(first / second, 2.5, rtol=1e-14)


def test_gaussian_cotangents():
    draw = GaussianCotangents(seed=1)
    likes = [jnp.zeros((50, 40), jnp.bfloat16), jnp.zeros(3000, jnp.complex64), jnp.zeros(()), jnp.zeros((0, 2))]
    found = draw(likes)
    assert [(g.shape, g.dtype) for g in found] == [(x.shape, x.dtype) for x in likes]
    assert abs(float(jnp.std(found[0].astype(jnp.float32))) - 1) < 0.1
    assert float(jnp.std(found[1].real)) > 0.9 and float(jnp.std(found[1].imag)) > 0.9
    assert not np.array_equal(draw(likes)[1], found[1])
    np.testing.assert_array_equal(GaussianCotangents(seed=1)(likes)[1], found[1])


def test_values():
    check = check_of(lambda x: jnp.split(x, [1]), X)
    np.testing.assert_array_equal(np.concatenate(COMPILED.values(check.equation, [2 * X])), 2 * X)
