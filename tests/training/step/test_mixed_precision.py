"""Presets and casts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.step.mixed_precision import Precision, cast, precision_of


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
