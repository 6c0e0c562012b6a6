"""Whole models: the manual and the automatic gradient agree leaf by leaf."""

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb

from ..rules.checking import assert_close
from .losses_of_models import LOSSES

TOLERANCE = {"float64": 1e-12, "float32": 5e-6}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", LOSSES)
def test_manual_equals_automatic(name, dtype):
    loss, params, batch = LOSSES[name](jnp.dtype(dtype))
    got, want = (jax.jit(lib.value_and_grad(loss))(params, batch) for lib in (fb, jax))
    assert_close(got, want, TOLERANCE[dtype], name)
