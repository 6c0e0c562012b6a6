"""The chain rule, number by number."""

import math

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.tracing.products import chain_rule


def test_car_bicycle_walker():
    found = chain_rule(jax.jit(lambda walker: 2.0 * (4.0 * walker)), 1.0)
    assert found.product == "2 × 4 = 8" and str(found).endswith("\n2 × 4 = 8")
    assert [(s.primitive, s.value, s.derivatives, s.cotangent) for s in found.steps] == [
        ("mul", 4.0, (4.0,), 2.0),
        ("mul", 8.0, (2.0,), 1.0),
    ]
    assert found.steps[0].place.file == __file__


def test_a_network_of_two_layers():
    def loss(w1, b1, w2, x):
        return (w2 * jnp.tanh(w1 * x + b1) - 1.0) ** 2

    arguments = 1.2, -0.1, 0.8, 0.5
    found = chain_rule(loss, *arguments, argnums=(0, 1, 2))
    expected = jax.jit(fb.grad(loss, argnums=(0, 1, 2)))(*arguments)
    assert list(found.gradients.values()) == pytest.approx([float(g) for g in expected], rel=1e-6)
    tanh = next(step for step in found.steps if step.primitive == "tanh")
    assert tanh.value == pytest.approx(math.tanh(0.5), rel=1e-6)
    assert tanh.derivatives[0] == pytest.approx(1 - math.tanh(0.5) ** 2, rel=1e-6)
    assert not found.is_chain and "d value / d args[0] = " in str(found)


def test_arrays_and_loops_are_refused():
    with pytest.raises(TypeError, match="for scalars, but mul at test_products.py"):
        chain_rule(lambda x: jnp.sum(2 * x), jnp.ones(3))
    with pytest.raises(TypeError, match="is in a loop"):
        chain_rule(lambda x: jax.lax.scan(lambda h, _: (2 * h, None), x, length=3)[0], 1.0)
