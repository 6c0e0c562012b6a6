"""When the loss scale halves and doubles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.training.step.loss_scale import LARGEST_SCALE, LossScale, all_finite


def test_loss_scale_halves_at_once_and_doubles_after_2000_steps():
    scale, after = LossScale.first(), jax.jit(LossScale.after)
    values = []
    for finite in [True] * 1999 + [False] + [True] * 2001:
        scale = after(scale, finite)
        values.append(float(scale.value))
    assert values[1998] == 2**15 and values[1999] == 2**14 == values[3998] and values[3999] == 2**15
    assert scale.steps == 1
    one, top = (LossScale(jnp.float32(v), jnp.int32(1999)) for v in (1.0, LARGEST_SCALE))
    assert one.after(jnp.bool_(False)).value == 1 and top.after(jnp.bool_(True)).value == LARGEST_SCALE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_all_finite(value):
    assert all_finite({"a": jnp.ones(3), "b": jnp.float32(1)})
    assert not all_finite({"a": jnp.ones(3), "b": jnp.array([0, value], jnp.float16)})
