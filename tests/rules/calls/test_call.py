"""Calls that are walked where they stand, and custom_vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.scheduling_groups import xla_metadata_call
from jax.extend import linear_util
from jax.extend.core import primitives

import fnbackprop as fb

from ..checking import assert_close, check_agreement, check_equal, check_vjp

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3,)), RNG.normal(size=(3,))
pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", ["call", "closed_call", "eval_jaxpr"])
def test_calls_of_a_jaxpr(name):
    """Under whatever name: JAX 0.10.2 has two such primitives, JAX 0.12 the third for both."""

    def fun(x, y):
        return [jnp.sin(x) * y + x]

    closed = jax.make_jaxpr(fun)(X, Y)
    wrapped = linear_util.wrap_init(fun, debug_info=jax.api_util.debug_info("fun", fun, (X, Y), {}))
    params = {
        "call": {"subfuns": (wrapped,)},
        "closed_call": {"subfuns": (wrapped,), "call_jaxpr": closed},
        "eval_jaxpr": {"call_jaxpr": closed},
    }[name]
    primitive = primitives.closed_call_p if name != "call" else primitives.call_p
    if primitive.name != name:
        pytest.skip(f"this JAX version has {primitive.name}")
    check_agreement(lambda x, y: primitive.bind(x, y, **params)[0], X, Y)
    check_agreement(lambda x, y: fb.grad(lambda x: primitive.bind(x, y, **params)[0].sum())(x), X, Y)


def wave(x, y):
    return jnp.sin(x) * y + x, y * y


def test_composite_vjp():
    """JAX has no derivative for it: against its decomposition."""
    check_equal(lax.composite(wave, "test.wave"), wave, X, Y)


def test_named_call_vjp():
    check_vjp(jax.named_call(wave, name="wave"), X, Y, dtypes=("float64",))


def test_custom_partitioning_vjp():
    """JAX has no derivative for it: against the plain function."""
    fun = custom_partitioning(lambda x, y: jnp.sin(x) * y)
    fun.def_partition(
        partition=lambda *_: None, infer_sharding_from_operands=lambda *_: None, sharding_rule="i, i -> i"
    )
    x, y = jnp.asarray(X), jnp.asarray(Y)
    got = jax.make_jaxpr(lambda x, y: fb.vjp(fun, x, y)[1](x))(x, y)
    want = jax.vjp(lambda x, y: jnp.sin(x) * y, x, y)[1](x)
    assert_close(list(jax.core.eval_jaxpr(got.jaxpr, got.consts, x, y)), list(want), 1e-14)


def test_remat_opt_vjp():
    """The forward of a custom_vjp with optimize_remat, differentiated a second time."""
    fun = jax.custom_vjp(lambda x: jnp.sin(x))
    fun.defvjp(lambda x: (jnp.sin(x), jnp.cos(x)), lambda c, ct: (5 * c * ct,), optimize_remat=True)
    x = jnp.asarray(X)

    def first(x):
        return fb.grad(lambda x: jnp.sum(fun(x)))(x)

    np.testing.assert_allclose(first(x), 5 * np.cos(X), rtol=1e-12)
    np.testing.assert_allclose(fb.grad(lambda x: jnp.sum(first(x)))(x), -5 * np.sin(X), rtol=1e-12)


# ---------------------------------------------------------------- custom_vmap


@custom_vmap
def scaled(x, y):
    return jnp.sin(x) * y


@scaled.def_vmap
def scaled_vmap(size, batched, x, y):
    """On purpose not what vmap would give, so that it shows who was called."""
    return 10 * jnp.sin(x) * y, True


def test_custom_vmap_vjp():
    check_equal(lambda x, y: jnp.sin(x) * scaled(x, y), lambda x, y: jnp.sin(x) * jnp.sin(x) * y, X, Y, batched=False)
    both = jax.vmap(lambda x, y: fb.value_and_grad(scaled)(x, y))
    value, gradient = both(jnp.asarray(X), jnp.asarray(Y))
    np.testing.assert_allclose(value, 10 * np.sin(X) * Y)  # the forward is batched by the user's function
    np.testing.assert_allclose(gradient, np.cos(X) * Y)


# ---------------------------------------------------------------- exported programs


def test_an_inactive_exported_program_runs():
    exported = jax.export.export(jax.jit(jnp.sin))(jnp.asarray(X))
    np.testing.assert_allclose(fb.grad(lambda x: jnp.sum(exported.call(lax.stop_gradient(x)) * x))(X), np.sin(X))


def test_xla_metadata_call_vjp():
    """What it tells the compiler is told of both passes, as by JAX, under checkpoint and at second order too."""

    @xla_metadata_call(inlineable="false")
    def tagged(x, y):
        return jnp.sin(x * y)

    def loss(x, y):
        return jnp.sum(tagged(tagged(x, y), y))

    def count(grad, fun):
        return jax.jit(grad(fun)).lower(X, Y).as_text().count('inlineable = "false"')

    check_agreement(loss, X, Y)
    check_agreement(lambda x, y: jnp.sum(fb.grad(loss)(x, y) ** 2), X, Y)
    assert count(fb.grad, loss) == count(jax.grad, loss) == 4
    assert count(fb.grad, jax.checkpoint(loss)) >= 4
