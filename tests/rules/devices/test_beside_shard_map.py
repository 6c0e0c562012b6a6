"""Operations on a value of no mesh, whose cotangent comes back from a `shard_map`, laid out on its mesh.

The reference takes the operation's own gradient at the cotangent of no mesh: JAX refuses some of these programs.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import fnbackprop as fb

from ..checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")

ONE, ZERO = jnp.int32(1), jnp.int32(0)
OPERATIONS = {
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (ONE, ZERO), (2, 4)),
    "dynamic_index": lambda x: lax.dynamic_index_in_dim(x, ONE, keepdims=True),
    "dynamic_update_slice, the operand": lambda x: lax.dynamic_update_slice(x, jnp.ones((2, 4)), (ONE, ZERO)),
    "dynamic_update_slice, the update": lambda x: lax.dynamic_update_slice(jnp.ones((8, 4)), x, (ONE, ZERO)),
    "slice": lambda x: x[::2],
    "gather": lambda x: x[jnp.array([0, 2])],
    "scatter": lambda x: x.at[ONE].set(2.0),
    "scatter_mul": lambda x: x.at[ONE].mul(x[0]),
    "concatenate": lambda x: jnp.concatenate([x, jnp.ones((4, 4))]),
    "pad": lambda x: lax.pad(x, 1.0, [(2, 2, 0), (0, 0, 0)]),
    "atan2": lambda x: jnp.arctan2(x, 2.0),
    "cumsum": lambda x: jnp.cumsum(x, 0),
    "sort": lambda x: jnp.sort(x, 0),
    "matmul": lambda x: jnp.ones((2, 4)) @ x,
    "where": lambda x: jnp.where(x > 2, x, 1.0),
    "scan": lambda x: lax.scan(lambda c, row: (c + row, c * row), jnp.ones(4), x)[1],
    "cond": lambda x: lax.cond(ONE > 0, jnp.sin, jnp.zeros_like, x),
}


@pytest.mark.parametrize("devices, jitted", [(1, False), (1, True), (2, True)])  # eagerly, JAX refuses two
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_cotangent_from_a_mesh(name, devices, jitted):
    operation, mesh = OPERATIONS[name], jax.make_mesh((devices,), ("x",))
    on_mesh = jax.shard_map(jnp.sin, mesh=mesh, in_specs=P(), out_specs=P())
    x = jnp.arange(16.0).reshape(4, 4) / 5
    gradient = fb.grad(lambda x: jnp.sum(on_mesh(operation(x))))
    found = (jax.jit(gradient) if jitted else gradient)(x)
    expected = jax.vjp(operation, x)[1](jnp.cos(operation(x)))[0]
    assert_close(found, expected, 1e-12)
