"""A rule that is wrong because of another one inside of it: the inner one is named, wherever it stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict

X = jnp.asarray(np.random.default_rng(0).normal(size=4), jnp.float32)


def ruled(factor):
    """sin, whose backward is `factor` times the right one."""

    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    def backward(x, dy):
        return (factor * jnp.cos(x) * dy,)

    sine.defvjp(lambda x: (jnp.sin(x), x), backward)
    return sine, f"{__file__}:{backward.__code__.co_firstlineno}"


def with_adjoint(function):
    """`function`, with a rule that differentiates it as it stands."""
    outer = jax.custom_vjp(function)
    outer.defvjp(lambda *args: jax.vjp(function, *args), lambda pullback, dy: pullback(dy))
    return outer


def by_while(sine):
    """Three steps of a loop that JAX does not differentiate, by the derivative of the same as a scan."""

    def body(carry):
        return carry[0] + 1, sine(carry[1]) + carry[1]

    def scanned(x):
        return jax.lax.scan(lambda c, _: (sine(c) + c, None), x, None, length=3)[0]

    outer = jax.custom_vjp(lambda x: jax.lax.while_loop(lambda c: c[0] < 3, body, (0, x))[1])
    outer.defvjp(lambda x: jax.vjp(scanned, x), lambda pullback, dy: pullback(dy))
    return outer


FORMS = {
    "plain": lambda sine: with_adjoint(lambda x: x * sine(x)),
    "jit": lambda sine: with_adjoint(jax.jit(lambda x: x * sine(x))),
    "cond": lambda sine: with_adjoint(lambda x: jax.lax.cond(x[0] < 9, lambda x: x * sine(x), jnp.cos, x)),
    "scan": lambda sine: with_adjoint(lambda x: jax.lax.scan(lambda c, t: (sine(c * t), None), x, X)[0]),
    "reversed": lambda sine: with_adjoint(lambda x: jax.lax.scan(lambda c, t: (sine(c * t), c), x, X, reverse=True)[1]),
    "while": by_while,
    "twice": lambda sine: with_adjoint(lambda x: 2 * with_adjoint(lambda x: x * sine(x))(x)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_inner_rule_is_named_alone(form):
    sine, place = ruled(2)
    outer = FORMS[form](sine)
    result = compare(lambda x: jnp.sum(outer(x) ** 2), X, directions=0)
    assert result.verdict is Verdict.FAIL and {found.rule_at for found in result.equations} == {place}


@pytest.mark.parametrize("form", FORMS)
def test_right_rules_pass(form):
    outer = FORMS[form](ruled(1)[0])
    assert compare(lambda x: jnp.sum(outer(x) ** 2), X, directions=1).require().equations == ()


def test_an_outer_rule_that_is_wrong_itself_is_named():
    sine, _ = ruled(1)
    outer = jax.custom_vjp(lambda x: x * sine(x))
    outer.defvjp(lambda x: (x * sine(x), x), lambda x, dy: (dy * jnp.cos(x),))
    (found,) = compare(lambda x: jnp.sum(outer(x) ** 2), X, directions=0).equations
    assert found.name == "<lambda>" and found.rule_at.startswith(__file__)


def test_a_right_rule_by_hand_of_a_function_that_calls_a_wrong_one_passes():
    """Its gradient does not come from the wrong one."""
    sine, _ = ruled(2)
    outer = jax.custom_vjp(lambda x: x * sine(x))
    outer.defvjp(lambda x: (x * sine(x), x), lambda x, dy: (dy * (jnp.sin(x) + x * jnp.cos(x)),))
    assert compare(lambda x: jnp.sum(outer(x) ** 2), X, directions=1).require().equations == ()
