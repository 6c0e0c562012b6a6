"""Every primitive that is listed as having no derivative exists in an installed JAX, and its gradient is zero."""

import jax
import jax.extend.core.primitives as primitives
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.jaxprs.primitives import all_primitives

from .checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")

X = np.array([0.4, -1.6, 2.5])
BITS = np.array([1, 6, 12], np.int64)
KEY = np.array([1, 2], np.uint32)


def as_bits(x):
    return lax.bitcast_convert_type(x, jnp.int64)


def to_float(x):
    return lax.convert_element_type(x, jnp.float64)


# name: a function of X whose output depends on X through that primitive alone
PROGRAMS = {
    "eq": lambda x: to_float(lax.eq(x, X)),
    "ne": lambda x: to_float(lax.ne(x, X)),
    "lt": lambda x: to_float(lax.lt(x, 0.5 * X)),
    "le": lambda x: to_float(lax.le(x, X)),
    "gt": lambda x: to_float(lax.gt(x, X)),
    "ge": lambda x: to_float(lax.ge(x, X)),
    "eq_to": lambda x: to_float(primitives.eq_to_p.bind(x, jnp.asarray(X))),
    "le_to": lambda x: to_float(lax.le_to_p.bind(x, jnp.asarray(X))),
    "lt_to": lambda x: to_float(lax.lt_to_p.bind(x, jnp.asarray(X))),
    "is_finite": lambda x: to_float(lax.is_finite(x)),
    "reduce_and": lambda x: to_float(jnp.all(x > 0)),
    "reduce_or": lambda x: to_float(jnp.any(x > 0)),
    "reduce_xor": lambda x: to_float(lax.reduce_xor(as_bits(x), (0,))),
    "and": lambda x: to_float(lax.bitwise_and(as_bits(x), BITS)),
    "or": lambda x: to_float(lax.bitwise_or(as_bits(x), BITS)),
    "xor": lambda x: to_float(lax.bitwise_xor(as_bits(x), BITS)),
    "not": lambda x: to_float(lax.bitwise_not(as_bits(x))),
    "shift_left": lambda x: to_float(lax.shift_left(as_bits(x), BITS)),
    "shift_right_logical": lambda x: to_float(lax.shift_right_logical(as_bits(x), BITS)),
    "shift_right_arithmetic": lambda x: to_float(lax.shift_right_arithmetic(as_bits(x), BITS)),
    "population_count": lambda x: to_float(lax.population_count(as_bits(x))),
    "clz": lambda x: to_float(lax.clz(as_bits(x))),
    "mulhi": lambda x: to_float(lax.mulhi(as_bits(x), BITS)),
    "bitcast_convert_type": lambda x: lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.float32), jnp.float64),
    "floor": lax.floor,
    "ceil": lax.ceil,
    "round": lax.round,
    "argmax": lambda x: to_float(lax.argmax(x, 0, jnp.int32)),
    "argmin": lambda x: to_float(lax.argmin(x, 0, jnp.int32)),
    "stop_gradient": lax.stop_gradient,
    "iota": lambda x: lax.iota(jnp.float64, 3) + lax.stop_gradient(x),
}
# Their operands are integers and keys, or there are none: no differentiated value reaches them.
INACTIVE = {
    "random_bits", "random_seed", "random_split", "random_fold_in", "random_wrap", "random_unwrap", "random_clone",
    "threefry2x32", "threefry4x32", "philox2x32", "philox4x32", "iota_2x32_shape", "rng_bit_generator",
    "empty", "empty2", "axis_index", "create_token", "after_all",
}  # fmt: skip


def listed():
    """Names alone: another test may declare a primitive of its own."""
    return {name for name, entry in registry.registered().items() if entry.no_gradient and isinstance(name, str)}


def test_every_listed_name_exists():
    """A misspelt name would be listed without effect."""
    assert listed() - {primitive.name for primitive in all_primitives()} == set()


def test_every_program_and_inactive_name_is_listed():
    assert {*PROGRAMS, *INACTIVE} - listed() == set()


def test_a_planted_name_is_found(plant):
    plant("floorr", registry.Entry(no_gradient="planted"))
    with pytest.raises(AssertionError):
        test_every_listed_name_exists()


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_gradient_flows(name):
    fun = PROGRAMS[name]
    if f"{name} " not in str(jax.make_jaxpr(fun)(X)).replace("[", " "):
        pytest.skip(f"{name} is not traced by this JAX version")
    y, pullback = fb.vjp(fun, X)
    assert_close(pullback(jnp.ones_like(y)), (jnp.zeros(3),), 0)
    assert jax.tree.leaves(pullback) == []  # nothing is saved
    assert_close(fb.grad(lambda x: jnp.sum(lax.square(x)) + jnp.sum(fun(x)))(X), jnp.asarray(2 * X), 1e-15)


def test_random_bits_and_keys():
    """Keys are inactive; a program that draws numbers has the gradient of what it does with them."""

    def fun(x, key):
        first, second = jax.random.split(jax.random.fold_in(key, 3))
        return jnp.sum(jax.random.normal(first, (3,)) * x + jax.random.uniform(second, (3,)))

    for key in (jax.random.key(7), jax.random.PRNGKey(7), jax.random.key(7, impl="rbg")):
        ours, theirs = (jax.jit(transform(fun))(jnp.asarray(X), key) for transform in (fb.grad, jax.grad))
        assert_close(ours, theirs, 1e-15)
