"""Mutable references within a `shard_map` whose body has collectives: their axes have names inside it alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnbackprop as fb

from ..checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")
MESH = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Auto,))
X = np.random.default_rng(0).normal(size=(8, 3))


def read_and_written(x):
    r = jax.new_ref(x)
    r[...] += jnp.sin(r[...])
    return lax.psum(r[...] * x, "a")


def in_a_loop(x):
    r = jax.new_ref(x)

    def step(i, _):
        r[...] += lax.pmean(jnp.sin(r[...]), "a") / (i + 1)

    lax.fori_loop(0, 3, step, None)
    return lax.psum(r[...], "a")


def in_a_jit(x):
    def inner(x):
        r = jax.new_ref(x)
        r[...] *= lax.psum(x, "a")
        return jax.freeze(r)

    return lax.pmean(jax.jit(inner)(x), "a")


BODIES = [read_and_written, in_a_loop, in_a_jit]


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint, jax.jit], ids=["plain", "checkpoint", "jit"])
def test_references_beside_collectives(wrap, checked):
    def loss(body, x):
        return jnp.sum(jax.shard_map(wrap(body), mesh=MESH, in_specs=P("a"), out_specs=P(), check_vma=checked)(x) ** 2)

    for body in BODIES:
        want = jax.jit(jax.grad(loss, 1), static_argnums=0)(body, X)
        assert_close(jax.jit(fb.grad(loss, 1), static_argnums=0)(body, X), want, 1e-12, body.__name__)
        assert_close(fb.grad(loss, 1)(body, X), want, 1e-12, body.__name__)


def written(r, b):
    r[...] = jnp.sin(b)


def written_in_a_loop(r, b):
    lax.fori_loop(0, 2, lambda i, _: written(r, b * i), None)


def written_in_a_branch(r, b):
    lax.cond(r[0] > 0, lambda: written(r, b), lambda: None)


@pytest.mark.parametrize("write", [written, written_in_a_loop, written_in_a_branch])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_what_the_devices_of_a_mesh_share_is_written_into_what_differs_among_them(write, wrap):
    """JAX 0.10.2 cannot compile the function itself: its types keep the two apart."""

    def on_each(a, b):
        ref = jax.new_ref(lax.pcast(a, "x", to="varying"))
        write(ref, b)
        ref[...] += a
        return lax.pmean(ref[...], "x")

    mesh = jax.make_mesh((1,), ("x",))
    fun = wrap(jax.shard_map(on_each, mesh=mesh, in_specs=(P(), P()), out_specs=P()))
    a, b = jnp.asarray([0.5, 2.0]), jnp.asarray([0.3, -1.0])
    got = fb.grad(lambda a, b: jnp.sum(fun(a, b) * a), (0, 1))(a, b)
    want = fb.grad(lambda a, b: jnp.sum((jnp.sin(b) + a) * a), (0, 1))(a, b)
    assert_close(got, want, 1e-6)
