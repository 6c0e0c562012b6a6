"""cond, switch and platform_dependent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ..checking import check_agreement, check_vjp

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3,)), RNG.normal(size=(3,))
pytestmark = pytest.mark.usefixtures("x64")


def branches(i, x, y):
    return jax.lax.switch(i, [lambda x, y: x * y, lambda x, y: jnp.sin(x), lambda x, y: jnp.ones_like(y)], x, y)


@pytest.mark.parametrize("index", [-1, 0, 1, 2, 5])
def test_cond_vjp(index):
    check_agreement(lambda x, y: branches(index, x, y), X, Y)
    check_agreement(lambda x, y: jax.jit(branches)(index, x, y), X, Y)


def test_cond_second_order_vmap_and_operands_of_few_branches():
    check_vjp(lambda x, y: jax.lax.cond(x[0] > 0, lambda: jnp.sin(x) * y, lambda: x), X, Y, dtypes=("float64",))
    check_agreement(jax.vmap(lambda x, y: jax.lax.cond(x > 0, lambda: jnp.sin(x) * y, lambda: y)), X, Y)
    check_agreement(lambda x: jax.lax.cond(x[0] > 0, lambda x: (x, 2), lambda x: (x * x, 3), x)[0], X)


def foreign(x):
    """A kernel that only another platform has."""
    return jax.ffi.ffi_call("nowhere", x, vmap_method="broadcast_all")(lax.stop_gradient(x)) * x


@pytest.mark.parametrize("platforms", [
    {"cpu": jnp.sin, "cuda": jnp.cos, "default": jnp.tan},
    {"cpu": jnp.sin, "tpu": foreign, "cuda": foreign},
    {"tpu": foreign, "default": jnp.tan},
])  # fmt: skip
def test_platform_dependent(platforms):
    """Each platform compiles its own branch alone, in the forward and in the backward."""
    check_vjp(lambda x: lax.platform_dependent(x, **platforms), X, dtypes=("float64",))
