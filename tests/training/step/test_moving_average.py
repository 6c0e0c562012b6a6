"""The moving average against the recurrence in numpy."""

import jax.numpy as jnp
import numpy as np

from fnbackprop.training.step.moving_average import first_average, next_average


def test_the_average_follows_its_recurrence_in_float32():
    steps = [np.float32(x) for x in (1.0, 3.0, -2.0, 5.0)]
    average, expected = first_average({"w": jnp.bfloat16(steps[0])}), steps[0]
    for step, value in enumerate(steps[1:]):
        average = next_average(average, {"w": jnp.bfloat16(value)}, 0.15, jnp.int32(step))
        decay = (0.1, 0.15, 0.15)[step]  # (1 + step) / (10 + step) = 0.1, 0.18, 0.25
        expected = decay * expected + (1 - decay) * value
    assert average["w"].dtype == jnp.float32
    np.testing.assert_allclose(average["w"], expected, rtol=1e-6)


def test_a_change_too_small_for_bfloat16_is_kept():
    average, params = first_average({"w": jnp.bfloat16(1)}), {"w": jnp.bfloat16(1 + 2**-7)}
    for _ in range(10):
        average = next_average(average, params, 0.9, jnp.int32(10**6))
    np.testing.assert_allclose(
        average["w"] - 1, 2**-7 * (1 - 0.9**10), rtol=1e-3
    )  # each is half an ulp of bfloat16 at most
