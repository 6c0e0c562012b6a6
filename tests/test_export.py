"""The training step lowers for CPU, GPU and TPU; none of them is needed for that."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export

import fnbackprop as fb

from .models.losses_of_models import LOSSES


@pytest.mark.parametrize("name", LOSSES)
def test_training_step_lowers_for_every_platform(name):
    loss, params, batch = LOSSES[name](jnp.float32)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, batch):
        value, gradient = fb.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    with jax.numpy_dtype_promotion("standard"):  # optax's Adam relies on it
        exported = export.export(step, platforms=("cpu", "cuda", "tpu"))(params, optimizer.init(params), batch)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert exported.mlir_module()
