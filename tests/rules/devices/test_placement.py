"""The gradient lies where its operand does."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import multihost_utils
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import fnbackprop as fb

from ..checking import assert_close, check_vjp
from .test_shard_map import MESH, block

pytestmark = pytest.mark.usefixtures("x64")


def test_sharding_constraint_vjp():
    """The cotangent is held to the constraint, so what is computed from it is sharded likewise."""
    spread = NamedSharding(MESH, P("a", "b"))
    fun = jax.jit(lambda x: jnp.sin(lax.with_sharding_constraint(x, spread)))
    check_vjp(fun, block(8, 4), dtypes=("float64",), batched=False)
    gradient = jax.jit(fb.grad(lambda x: jnp.sum(jnp.sin(lax.with_sharding_constraint(x, spread)))))
    assert gradient(block(8, 4)).sharding.is_equivalent_to(spread, 2)


def test_layout_constraint_vjp():
    fun = jax.jit(lambda x: jnp.sin(with_layout_constraint(jnp.cos(x), Layout((1, 0)))))
    check_vjp(fun, block(8, 4), dtypes=("float64",), batched=False)


def test_device_put_vjp():
    """The gradient lies where its operand does."""
    here, there = jax.devices()[:2]

    def fun(x, y):
        x, y = jax.device_put((jnp.cos(x), y * y), (there, there))
        return jnp.sum(jnp.sin(x) * y)

    x, y = jax.device_put(block(3), here), jax.device_put(block(3, seed=1), there)
    got = fb.grad(fun, argnums=(0, 1))(x, y)
    assert [g.device for g in got] == [here, there]
    assert_close(got, jax.grad(fun, argnums=(0, 1))(x, y), 1e-14)
    check_vjp(jax.jit(lambda x: jnp.sin(jax.device_put(jnp.cos(x)))), block(3), batched=False)


def test_device_put_between_memories():
    """`jax.grad` stumbles over the memory space of the cotangent where none is named for the way back."""
    host, device = jax.memory.Space.Host, jax.memory.Space.Device
    fun = jax.jit(lambda x: jnp.sin(jax.device_put(jax.device_put(jnp.cos(x), host), device)))
    x, dy = block(3), block(3, seed=1)
    assert_close(fb.vjp(fun, x)[1](dy)[0], -jnp.cos(jnp.cos(x)) * jnp.sin(x) * dy, 1e-14)


def test_shard_alike_vjp():
    alike = pytest.importorskip("jax.experimental.shard_alike", reason="gone from JAX 0.12").shard_alike
    check_vjp(jax.jit(lambda x, y: alike(jnp.sin(x), y * y)), block(8, 4), block(8, 4, seed=1), batched=False)


def test_host_local_and_global_arrays():
    """Of one process both are the identity; of several, each other's transpose."""

    def fun(x):
        whole = multihost_utils.host_local_array_to_global_array(jnp.sin(x), MESH, P("a"))
        return multihost_utils.global_array_to_host_local_array(whole * whole, MESH, P("a"))

    x = block(8, 4)
    (dx,) = fb.vjp(fun, x)[1](x)
    assert_close(dx, 2 * x * jnp.sin(x) * jnp.cos(x), 1e-12)
    closed = jax.make_jaxpr(fb.grad(lambda x: fun(x).sum()))(x)
    names = [e.primitive.name for e in closed.jaxpr.eqns if "array_to" in e.primitive.name]
    assert names == [f"{a}_array_to_{b}_array" for a, b in (("host_local", "global"), ("global", "host_local")) * 2]
