"""Rules whose backward pass could keep more temporary buffers than `jax.grad` does, by the compiler's account."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(4, 48, 48)), jnp.float32)
INDEX = jnp.asarray(np.random.default_rng(1).integers(0, 48, 24))

PROGRAMS = {
    "svd, right vectors alone": lambda x: jnp.linalg.svd(x, full_matrices=False)[1:],
    "svd, left vectors alone": lambda x: jnp.linalg.svd(x, full_matrices=False)[0],
    "lu": lambda x: lax.linalg.lu(x)[0],
    "lu of tall matrices": lambda x: lax.linalg.lu(x[..., :32])[0],
    "lu of wide matrices": lambda x: lax.linalg.lu(x[..., :32, :])[0],
    "scatter": lambda x, y=MATRIX[0, :24]: x[0].at[INDEX].set(y),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_temp_memory_is_at_most_that_of_jax(name):
    def loss(x, weights):
        return sum(jnp.vdot(y, w) for y, w in zip(jax.tree.leaves(PROGRAMS[name](x)), weights, strict=True))

    weights = [jnp.ones(y.shape, y.dtype) for y in jax.tree.leaves(jax.eval_shape(PROGRAMS[name], MATRIX))]
    programs = [jax.jit(grad(loss)).lower(MATRIX, weights).compile() for grad in (jax.grad, fb.grad)]
    theirs, ours = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert ours <= 1.1 * theirs


def test_temp_memory_of_scatter_of_both_operands():
    def loss(x, y, w):
        return jnp.vdot(x.at[INDEX].set(y), w)

    args = MATRIX[0], MATRIX[1, :24], MATRIX[2]
    programs = [jax.jit(grad(loss, argnums=(0, 1))).lower(*args).compile() for grad in (jax.grad, fb.grad)]
    theirs, ours = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert ours <= 1.1 * theirs
