"""Types of values, and the constants that are made to be of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.fp8_ops import fm32
from jax import lax
from jax._src.dtypes import primal_tangent_dtype

import fnbackprop as fb
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


# ---------------------------------------------------------------- extended dtypes with cotangents


@jax.custom_vjp
def scaled(x, scale):
    return x


def scaled_bwd(scale, ct):
    """The cotangent of a scale of 8-bit numbers is the next scale; several add up to their maximum, as Flax defines."""
    return ct, lax.convert_element_type((lax.convert_element_type(scale, np.float32) + jnp.max(ct)) * 0.5, fm32)


scaled.defvjp(lambda x, scale: (scaled(x, scale), scale), scaled_bwd)


def used_twice(x, scale):
    scale = lax.convert_element_type(scale, fm32)
    return scaled(x, scale) * 2.0 + jnp.sin(scaled(x, scale))


def used_in_a_loop(x, scale):
    scale = lax.convert_element_type(scale, fm32)
    return lax.scan(lambda c, _: (scaled(jnp.sin(c), scale), None), x, None, length=3)[0]


def scanned_over(x, scale):
    scales = lax.convert_element_type(jnp.stack([scale, scale * 2.0]), fm32)
    return lax.scan(jax.checkpoint(lambda c, s: (scaled(jnp.sin(c), s), None)), x, scales)[0]


def used_in_a_branch(x, scale):
    scale = lax.convert_element_type(scale, fm32)
    return lax.cond(x > 4.0, lambda: scaled(x, scale), lambda: x)


@pytest.mark.parametrize("fun", [used_twice, used_in_a_loop, scanned_over, used_in_a_branch])
def test_cotangents_of_an_extended_dtype(fun):
    arguments = np.float32(3.14), np.float32(1.5)
    found, expected = (jax.jit(grad(fun, (0, 1)))(*arguments) for grad in (fb.grad, jax.grad))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_dtype_with_cotangents_of_another():
    """Integers whose cotangents are bfloat16."""
    dtype = primal_tangent_dtype(jnp.int8, jnp.bfloat16)

    @jax.custom_gradient
    def double(x):
        return 2 * lax.convert_element_type(x, jnp.int8).astype(jnp.bfloat16), lambda ct: (2 * ct,)

    @jax.jit
    def pulled(x, ct):
        return fb.vjp(double, lax.convert_element_type(x, dtype))[1](ct)[0]

    found = pulled(jnp.array([1, 2, 3], jnp.int8), jnp.array([1.0, 3.0, 0.5], jnp.bfloat16))
    assert found.dtype == jnp.bfloat16 and found.tolist() == [2.0, 6.0, 1.0]
