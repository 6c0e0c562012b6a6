"""Primitives that return their operand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata

import fnbackprop as fb
from fnbackprop.jaxprs.primitives import all_primitives

from ..checking import check_vjp

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3,)), RNG.normal(size=(2, 3))
pytestmark = pytest.mark.usefixtures("x64")
CASES = {
    "name": lambda x: jnp.sin(checkpoint_name(x, "here")) * x,
    "stage": lambda x: lax.stage(x) * x if hasattr(lax, "stage") else x,
    "xla_metadata_value": lambda x: set_xla_metadata(x * x, tag="a") * x,
}


@pytest.mark.parametrize("name", CASES)
def test_identity_vjp(name):
    for x in (X, Y, np.float64(1.5), np.zeros((0, 2))):
        check_vjp(CASES[name], x, dtypes=("float64", "float32"))


@pytest.mark.parametrize(("primitive", "params", "operands", "wants"), [
    ("tie", {}, (X, Y), (np.zeros(3), 2 * Y)),
    ("broadcast_to", {"shape": (2, 3)}, (X,), (2 * Y.sum(0),)),
])  # fmt: skip
def test_primitives_without_a_public_function(primitive, params, operands, wants):
    """tie and broadcast_to are bound by JAX's own functions alone: their closed forms."""
    found = [p for p in all_primitives() if p.name == primitive]
    pullback = fb.vjp(lambda *xs: found[0].bind(*xs, **params), *map(jnp.asarray, operands))[1]
    for got, want in zip(pullback(jnp.asarray(2 * Y)), wants, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14)


def test_names_reach_the_policy():
    saved = jax.checkpoint_policies.save_only_these_names("a")
    fun = jax.checkpoint(lambda x: jnp.sin(checkpoint_name(jnp.log(x), "a")), policy=saved)
    jaxpr = str(jax.make_jaxpr(fb.grad(lambda x: fun(x).sum()))(X))
    assert jaxpr.count("= log ") == 1


def test_the_gradient_of_a_copy_is_a_new_array():
    x = jnp.arange(3.0)
    pullback = fb.vjp(jnp.copy, x)[1]
    dy = jnp.ones(3)
    (dx,) = pullback(dy)
    dx.delete()
    assert not dy.is_deleted() and (dy == 1).all()
