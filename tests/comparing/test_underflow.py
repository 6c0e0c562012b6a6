"""Losses that are so small that they are flushed to zero, with gradients that are not."""

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.comparing.results import Verdict

LOSSES = {
    "squares": (lambda x: jnp.sum(x**2), 1e-20),
    "a product": (lambda x: jnp.sum(jnp.tanh(x) * x), 1e-25),
    "a fourth power": (lambda x: jnp.mean(x**4), 1e-10),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_right_gradient_raises_no_alarm(name):
    loss, scale = LOSSES[name]
    x = scale * jax.random.normal(jax.random.key(0), (8,))
    found = fb.compare(loss, x)
    assert float(loss(x)) < 1e-37
    assert found.verdict is Verdict.PASS, str(found)
    assert found.numeric.verdict is Verdict.PASS


def test_a_wrong_one_fails():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, g: (2.1 * g * x,))
    x = 1e-20 * jax.random.normal(jax.random.key(0), (8,))
    assert fb.compare(lambda x: jnp.sum(square(x)), x).verdict is Verdict.FAIL
