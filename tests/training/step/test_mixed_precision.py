"""Presets, casts, and the rule of the loss scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.step.mixed_precision import LARGEST_SCALE, LossScale, Precision, all_finite, cast, precision_of


def test_precision_of():
    assert precision_of(None) == Precision() == Precision(None, None, None, loss_scaling=False)
    assert precision_of("float16") == Precision("float32", "float16", "float32", loss_scaling=True)
    assert precision_of(Precision(compute="bfloat16")).compute == "bfloat16"
    with pytest.raises(ExperimentError, match="one of float32, bfloat16, float16, not 'half'"):
        precision_of("half")
    with pytest.raises(ExperimentError, match="compute must be one of .*, or None, not 'int8'"):
        Precision(compute="int8")


def test_cast_changes_floating_leaves_alone():
    key = jax.random.key(0)
    tree = {"f": jnp.ones(2), "i": jnp.arange(2), "b": True, "key": key, "n": np.float32(1)}
    found = cast(tree, "bfloat16")
    assert found["f"].dtype == found["n"].dtype == jnp.bfloat16
    assert found["i"].dtype == jnp.int32 and found["b"] is True and found["key"] is key
    assert cast(tree, None) is tree


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
