"""Types of values, and the constants that are made to be of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.jaxprs import avals

AVAL = jax.typeof(jnp.ones((2, 3), jnp.bfloat16))


def test_zeros_have_shape_and_dtype_of_the_aval():
    zeros, stack = avals.zeros_like_aval(AVAL), avals.zeros_like_stack(jnp.ones(3, jnp.int32), 4)
    assert (zeros.shape, zeros.dtype, zeros.any()) == ((2, 3), jnp.bfloat16, False)
    assert (stack.shape, stack.dtype, stack.any()) == ((4, 3), jnp.int32, False)


def test_keys_are_stacked_as_copies():
    key = jax.random.key(3)
    stack = avals.zeros_like_stack(key, 2)
    assert stack.shape == (2,) and all(
        jax.random.key_data(k).tolist() == jax.random.key_data(key).tolist() for k in stack
    )


def test_tangents_of_integers_are_float0():
    assert avals.zero_tangent(jax.typeof(jnp.arange(3))).dtype == jax.dtypes.float0
    assert avals.zero_tangent(AVAL).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("x", "inexact"), [(1.0, True), (1j, True), (1, False), (True, False), (jax.random.key(0), False)]
)
def test_what_carries_a_cotangent(x, inexact):
    assert avals.is_inexact(jax.typeof(x)) is inexact


def test_weak_types():
    strong = jnp.float32(2)
    weak = avals.as_weak(strong)
    assert avals.is_weak(weak) and not avals.is_weak(strong) and avals.as_weak(weak) is weak


def test_numbers_become_arrays_and_all_else_stays():
    key = jax.random.key(0)
    assert avals.as_jax_array(key) is key
    for x in (2, 2.5, np.ones(3), np.float32(1)):
        array = avals.as_jax_array(x)
        assert isinstance(array, jax.Array) and (array == x).all()


def test_the_cotangent_of_a_reduced_value_is_unreduced():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones(4), jax.NamedSharding(mesh, jax.P(reduced={"i"})))
        sharding = avals.cotangent_sharding(jax.typeof(x))
    assert sharding.spec.unreduced == {"i"} and not sharding.spec.reduced


def test_the_compiler_lays_out_where_no_axis_is_explicit():
    assert avals.explicit_sharding(AVAL) is None and avals.cotangent_sharding(AVAL) is None
    x = jnp.ones(2)
    assert avals.lay_out(x, None) is x


def test_barriers_keep_trees_and_values():
    values = {"x": jnp.arange(3.0), "y": [jnp.int32(1)]}
    kept = avals.optimization_barrier(values)
    assert jax.tree.structure(kept) == jax.tree.structure(values) and (kept["x"] == values["x"]).all()
