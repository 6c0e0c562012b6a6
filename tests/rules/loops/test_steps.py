"""What holds at every step of a loop, from what holds at its start and its end."""

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.engine import Engine
from fnbackprop.rules.loops.steps import active_flags, add_term, plan_step, zero_sum


def body():
    """Constant c, carries a, b, n and row x: a depends on b, b on c and x, n on nothing that has a derivative."""
    return jax.make_jaxpr(lambda c, a, b, n, x: (a + b, jnp.sin(c) * b + x, n + 1, a * x))(1.0, 1.0, 1.0, 1, 1.0)


def test_a_carry_that_becomes_active_is_active_at_every_step():
    active, results = active_flags(Engine(), body(), 1, 3, (True, False, False, False, False))
    assert active == (True, True, True, False, False)
    assert results == (True, True, False, True)


def test_a_carry_that_gets_a_cotangent_has_one_in_all_earlier_steps():
    """Only the last a is wanted; through b it takes the cotangent of b, and that of c, at every earlier step."""
    step = plan_step(Engine(), body(), 1, 3, (True, False, False, False, False), (True, False, False, False))
    assert step.carry_cts == (True, True, False) and step.ys_cts == (False,)
    assert step.plan.has_cotangent[0] and not step.plan.has_cotangent[4]


def test_sums_over_the_steps_are_taken_in_float32():
    total = zero_sum(jax.typeof(jnp.zeros(2, "bfloat16")))
    for _ in range(300):
        total = add_term(total, jnp.ones(2, "bfloat16"))
    assert total.dtype == np.float32
    np.testing.assert_array_equal(total, [300.0, 300.0])
