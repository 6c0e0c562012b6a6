"""Functions wrapped for another purpose than a derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import linear_call
from jax.experimental.custom_partitioning import custom_partitioning

import fnbackprop as fb

from ..checking import assert_close, check_equal, check_numeric, check_vjp, random_cotangent

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3,)), RNG.normal(size=(3,))
pytestmark = pytest.mark.usefixtures("x64")


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


# ---------------------------------------------------------------- linear_call


def product(factor, x):
    return linear_call(lambda r, x: x * r, lambda r, ct: 3 * ct * r, factor, x)  # a transpose that is not the true one


def test_linear_call_vjp():
    x, y = jnp.asarray(X), jnp.asarray(Y)
    for fun in (lambda x: product(y, x), jax.jit(lambda x: product(y, x))):
        ct = random_cotangent(fun(x))
        assert_close(fb.vjp(fun, x)[1](ct), jax.vjp(fun, x)[1](ct), 1e-14)
    first = lambda lib: lambda x: lib.vjp(lambda x: product(y, x), x)[1](x * x)[0]  # noqa: E731
    assert_close(fb.vjp(first(fb), x)[1](y), jax.vjp(first(jax), x)[1](y), 1e-14)


def test_linear_call_vjp_of_its_residual_arguments():
    """JAX refuses these: numerically."""

    def fun(r, x):
        return linear_call(lambda r, x: x * jnp.sin(r), lambda r, ct: ct * jnp.sin(r), r, x)

    check_numeric(fun, X, Y)
    check_numeric(lambda r: fun(r, 2.0), X)


# ---------------------------------------------------------------- others


def test_remat_opt_vjp():
    """The forward of a custom_vjp with optimize_remat, differentiated a second time."""
    fun = jax.custom_vjp(lambda x: jnp.sin(x))
    fun.defvjp(lambda x: (jnp.sin(x), jnp.cos(x)), lambda c, ct: (5 * c * ct,), optimize_remat=True)
    x = jnp.asarray(X)

    def first(x):
        return fb.grad(lambda x: jnp.sum(fun(x)))(x)

    np.testing.assert_allclose(first(x), 5 * np.cos(X), rtol=1e-12)
    np.testing.assert_allclose(fb.grad(lambda x: jnp.sum(first(x)))(x), -5 * np.sin(X), rtol=1e-12)


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


def test_an_inactive_exported_program_runs():
    exported = jax.export.export(jax.jit(jnp.sin))(jnp.asarray(X))
    np.testing.assert_allclose(fb.grad(lambda x: jnp.sum(exported.call(lax.stop_gradient(x)) * x))(X), np.sin(X))
