"""The sparse direct solve, against the dense one. On a CPU JAX calls SciPy, one system at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse.linalg import spsolve

import fnbackprop as fb

from ..checking import assert_close, random_like
from .dense import written_out

pytest.importorskip("scipy")

# Rows 0 to 4, each with its columns in order, as SciPy needs them here; the last two entries are padding.
ROW = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
COLUMN = [0, 3, 0, 1, 2, 4, 0, 3, 1, 4, 0, 2]
INDPTR = [0, 2, 4, 6, 8, 10]


def system(dtype="float64"):
    row, column, indptr = (jnp.array(i, "int32") for i in (ROW, COLUMN, INDPTR))
    data = random_like(np.zeros(len(ROW), dtype), 1) + jnp.asarray(4 * (row == column), dtype)
    return data, column, indptr, jnp.stack([row, column], -1)


def losses(dtype="float64"):
    """The loss of the sparse solution, that of the dense one, and where to differentiate them.

    Not jitted: several of JAX's callbacks in one program can wait for each other on a small CPU."""
    data, column, indptr, indices = system(dtype)

    def loss(solve):
        return lambda data, b: jnp.sum(jnp.sin(solve(data, b))).real

    ours = loss(lambda data, b: spsolve(data, column, indptr, b))
    plain = loss(lambda data, b: jnp.linalg.solve(written_out(data, indices, (5, 5)), b))
    return ours, plain, (data, random_like(np.zeros(5, dtype), 2))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("argnums", [0, 1, (0, 1)], ids=str)
def test_spsolve_vjp(dtype, argnums):
    ours, plain, at = losses(dtype)
    assert_close(fb.grad(ours, argnums)(*at), jax.grad(plain, argnums)(*at), 1e-12)


def test_second_order():
    ours, plain, at = losses()

    def curvature(grad, loss):
        return grad(lambda data, b: sum(jnp.sum(jnp.cos(g)) for g in grad(loss, (0, 1))(data, b)), (0, 1))(*at)

    assert_close(curvature(fb.grad, ours), curvature(jax.grad, plain), 1e-11)
