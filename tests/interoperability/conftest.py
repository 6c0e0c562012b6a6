"""Other people's programs rely on JAX's standard promotion of dtypes and ranks; float64 throughout."""

import jax
import pytest


@pytest.fixture(autouse=True)
def defaults():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
