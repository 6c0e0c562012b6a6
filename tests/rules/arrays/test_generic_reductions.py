import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..checking import assert_close, check_numeric, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")


def array(*shape, dtype="float64", seed=3):
    return random_like(np.zeros(shape, dtype), seed)


LAYOUTS = [
    ((6,), (0,)),
    ((3, 4), (1,)),
    ((5, 2, 3), (0, 2)),
    ((1, 3), (0,)),
    ((3, 0), (1,)),
    ((0, 3), (1,)),
    ((3,), ()),
]


def probabilistic_or(a, b):
    return a + b - a * b


MONOIDS = {"mul": (lax.mul, 1.0), "logaddexp": (jnp.logaddexp, -np.inf), "or": (probabilistic_or, 0.0)}


@pytest.mark.parametrize(("shape", "axes"), LAYOUTS)
@pytest.mark.parametrize("name", MONOIDS)
def test_reduce_vjp(name, shape, axes):
    reducer, init = MONOIDS[name]
    check_numeric(lambda x: lax.atan(lax.reduce(x, init, reducer, axes)), array(*shape))


@pytest.mark.parametrize(("reducer", "init"), [(lax.mul, 1.5), (jnp.logaddexp, -1.0)])
def test_reduce_vjp_from_another_initial_value(reducer, init):
    """Over several elements: of one alone, XLA drops the initial value."""
    check_numeric(lambda x: lax.sin(lax.reduce(x, init, reducer, (0,))), array(5, 2))


def test_reduce_vjp_against_jax():
    """Where JAX has a rule, to second order and under vmap."""
    check_vjp(lambda x: lax.reduce(x, scalar_like(0, x), probabilistic_or, (1,)), array(3, 5))


def scalar_like(value, x):
    return np.array(value, x.dtype)


def test_reduce_vjp_of_the_initial_value():
    check_numeric(lambda x, v: lax.reduce(x, v, lax.mul, (0,)), array(5, 2), array())
    check_numeric(lambda v: lax.reduce(jnp.ones((0, 2)), v, lax.mul, (0,)), array())


def test_reduce_vjp_of_two_operands():
    """Composition of affine maps t -> b + a·t keeps its order."""

    def compose(first, then):
        return first[0] * then[0], then[1] + then[0] * first[1]

    check_numeric(
        lambda a, b, u, v: lax.reduce((a, b), (u, v), compose, (0,)), array(5, 2), array(5, 2), array(), array(seed=5)
    )


def test_reduce_vjp_with_an_integer_operand():
    """Arg-max by hand: the value has a gradient, the position none."""

    def pick(left, right):
        first = left[0] >= right[0]
        return lax.select(first, left[0], right[0]), lax.select(first, left[1], right[1])

    def fun(x):
        value, where = lax.reduce((x, jnp.arange(5)), (-jnp.inf, 0), pick, (0,))
        return value * where.astype(x.dtype)

    x = array(5)
    assert_close(fb.grad(fun)(x), jnp.zeros(5).at[jnp.argmax(x)].set(jnp.argmax(x).astype(float)), 1e-12)


def test_reduce_vjp_complex():
    z = array(4, dtype="complex128")
    got = fb.grad(lambda z: lax.reduce(z, 1 + 0j, lambda a, b: a * b, (0,)), holomorphic=True)(z)
    assert_close(got, jnp.prod(z) / z, 1e-12)


def test_reduce_vjp_in_low_precision():
    x = array(3, 5)
    check_vjp(
        lambda x: lax.reduce(x, scalar_like(0, x), probabilistic_or, (1,)),
        x,
        dtypes=("bfloat16",),
        order=1,
        batched=False,
    )


def test_reduce_vjp_is_linear_in_length():
    """A fold of 30,000 elements: a tree of 15 levels."""
    x = 0.001 * array(30_000)
    got = jax.jit(fb.grad(lambda x: lax.reduce(x, 0.0, probabilistic_or, (0,))))(x)
    assert_close(got, jnp.prod(1 - x) / (1 - x), 1e-11)


@pytest.mark.parametrize("check_vma", [False, True])
def test_a_function_with_numbers_inside_shard_map(check_vma):
    """a·b + 0·a: the number is the same on all devices, and what it is multiplied with is not."""

    def fun(x):
        by_window = lax.reduce_window(x, np.float32(1), lambda a, b: a * b + 0 * a, (2,), (2,), "VALID")
        return lax.reduce(x, np.float32(1), lambda a, b: a * b + 0 * a, (0,))[None] + jnp.sum(by_window)[None]

    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(fun, mesh=mesh, in_specs=jax.P("d"), out_specs=jax.P("d"), check_vma=check_vma)
    x = jnp.float32([1, 2, 3, 4, 5, 6, 7, 8])
    expected = [np.prod(half) / half + half[[1, 0, 3, 2]] for half in np.split(np.asarray(x), 2)]
    np.testing.assert_allclose(fb.grad(lambda x: jnp.sum(sharded(x)))(x), np.concatenate(expected), rtol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_reduce_vjp_inside_shard_map(check_vma):
    """The operand varies over devices and the initial value does not."""

    def fun(x, v):
        return lax.reduce(x, v, lax.mul, (1,)) + lax.reduce_window(x, v, lax.mul, (1, 4), (1, 1), "VALID")[:, 0]

    x, v, ct = array(4, 4), array(seed=4), array(4, seed=5)
    want = fb.vjp(fun, x, v)[1](ct)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    specs = {"in_specs": (jax.P("d"), jax.P()), "out_specs": jax.P("d")}
    sharded = jax.shard_map(fun, mesh=mesh, check_vma=check_vma, **specs)
    assert_close(fb.vjp(sharded, x, v)[1](ct), want, 1e-12)
