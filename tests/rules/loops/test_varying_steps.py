"""while_loop in shard_map, with the types of check_vma: against the same loops one after the other, without a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import fnbackprop as fb
from fnbackprop.jaxprs.graph import all_equations

from ..checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")

X = np.linspace(0.1, 0.9, 8)
P = PartitionSpec
grads = (0, 1)


def same_steps(w, x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(w * s[1])), (0, x))[1]


def own_steps(w, x):
    """Each device goes on until its own numbers are small; the counter's type says that they agree on it."""
    return lax.while_loop(
        lambda s: (s[0] < 5) & (jnp.sum(s[1]) > 0.7), lambda s: (s[0] + 1, jnp.sin(w * s[1])), (0, x)
    )[1]  # fmt: skip


def nested(w, x):
    """With constants, calls and loops in the body."""

    def step(x):
        x = lax.scan(lambda x, c: (jnp.where(x > 0.2, jnp.sin(w * c * x), w * x), None), x, np.array([1.0, 0.8]))[0]
        return lax.cond(w > 1, lambda x: 0.2 * x, lambda x: x / w, jax.checkpoint(lambda x: own_steps(w, x))(x))

    return lax.while_loop(lambda x: jnp.sum(x) > 0.2, step, x)


def batched(w, x):
    def one(x):
        loop = lax.while_loop(lambda s: (s[0] < 5) & (s[1] > 0.3), lambda s: (s[0] + 1, jnp.sin(w * s[1])), (0, x))
        return loop[1] + loop[0]

    return jax.vmap(one)(x)


def total(f, w, x):
    return jnp.sum(jnp.cos(f(w, x)))


@functools.cache
def on_devices(f):
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    return jax.shard_map(f, mesh=mesh, in_specs=(P(), P("i")), out_specs=P("i"))


def in_turn(f):
    return lambda w, x: jnp.concatenate([f(w, x[2 * d : 2 * d + 2]) for d in range(4)])


@pytest.mark.parametrize("f", [same_steps, own_steps, nested, batched], ids=lambda f: f.__name__)
def test_gradient(f):
    got = jax.jit(fb.grad(functools.partial(total, on_devices(f)), grads, checkpoints=2))(1.3, X)
    assert_close(got, jax.jit(fb.grad(functools.partial(total, in_turn(f)), grads))(1.3, X), 1e-12)


def second(f):
    return fb.grad(lambda w, x: sum(jnp.sum(g**2) for g in fb.grad(functools.partial(total, f), grads)(w, x)), grads)


@pytest.mark.parametrize("f", [own_steps, batched], ids=lambda f: f.__name__)
def test_second_order(f):
    assert_close(jax.jit(second(on_devices(f)))(1.3, X), jax.jit(second(in_turn(f)))(1.3, X), 1e-11)


def sums_over_devices(jaxpr):
    return [e.primitive.name for e in all_equations(jaxpr) if e.primitive.name.startswith("psum")]


def test_no_device_waits_in_a_loop():
    """Where the number of steps varies, the one sum over the devices is taken after the loop."""
    closed = jax.make_jaxpr(fb.grad(functools.partial(total, on_devices(own_steps)), grads))(1.3, X)
    loops = [e for e in all_equations(closed) if e.primitive.name == "while"]
    assert loops
    assert not [
        name for e in loops for key in ("body_jaxpr", "cond_jaxpr") for name in sums_over_devices(e.params[key])
    ]
    assert len(sums_over_devices(closed)) == 1


def scanned(w, x):
    return lax.scan(lambda h, _: (jnp.sin(w * h), h), x, None, length=3)[0]


def fori(w, x):
    return lax.fori_loop(0, 3, lambda _, h: jnp.sin(w * h), x)


@pytest.mark.parametrize("f", [scanned, fori], ids=lambda f: f.__name__)
def test_no_more_sums_than_jax(f):
    ours, jaxs = (
        sums_over_devices(jax.make_jaxpr(grad(functools.partial(total, on_devices(f)), grads))(1.3, X))
        for grad in (fb.grad, jax.grad)
    )
    assert len(ours) <= len(jaxs)
