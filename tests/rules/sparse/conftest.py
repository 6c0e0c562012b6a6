"""JAX's sparse arrays mix index dtypes and ranks on their own, which the strict mode of the other tests refuses."""

import jax
import pytest


@pytest.fixture(autouse=True)
def as_users_run_it():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
