"""cond, switch and platform_dependent."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.jaxprs.graph import all_equations

from ..checking import assert_close, check_agreement, check_vjp

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


def costly(i, x):
    """A factorization, a sort and a product, whose residuals share slots; a branch that has none."""

    def factor(x):
        return jnp.sin(lax.linalg.cholesky(jnp.exp(x))) * x

    def ranked(x):
        return jnp.sort(x, 1) * jnp.exp(x)

    return lax.switch(i, [factor, ranked, lambda x: jnp.tanh(x @ x), lambda x: x * 2], x)


def test_what_is_costly_in_a_branch_is_saved():
    x = jnp.array([[0.3, -2.0], [-2.0, 0.4]])
    check_agreement(jax.jit(lambda x: jax.vmap(costly)(jnp.arange(4), x)), jnp.stack([x] * 4))
    check_agreement(jax.jit(lambda x: lax.scan(lambda x, i: (x + costly(i, x), x[0]), x, jnp.arange(1, 4))), x)
    gradient = jax.jit(fb.grad(lambda i, x: costly(i, x).sum(), 1))
    again = jax.jit(jax.grad(lambda x: (jax.grad(lambda x: (jnp.sort(x, 1) * jnp.exp(x)).sum())(x) ** 2).sum()))(x)
    assert_close(jax.jit(fb.grad(lambda x: (gradient(1, x) ** 2).sum()))(x), again, 1e-12)
    counts = Counter(e.primitive.name for e in all_equations(jax.make_jaxpr(gradient)(1, x)))
    assert counts["cholesky"] == counts["sort"] == 1 and counts["dot_general"] == 3 + 1  # of the product, of cholesky
