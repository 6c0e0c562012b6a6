"""A gradient in `shard_map` sends no more between devices than JAX's: collectives counted, each step of a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop.jaxprs.graph import inner_jaxprs
from fnbackprop.jaxprs.types import open_jaxpr

pytestmark = pytest.mark.usefixtures("x64")

MESH = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Auto,))
X, W = (np.random.default_rng(seed).normal(size=(4, 4)) for seed in (1, 2))
COLLECTIVES = (
    "psum psum_invariant all_gather all_gather_invariant reduce_scatter ppermute all_to_all pmax pmin pbroadcast"
).split()


def collectives(jaxpr) -> int:
    """How many run; those of a while loop's step count once, and of a cond's branches those of the costliest."""
    total = 0
    for equation in open_jaxpr(jaxpr).eqns:
        inner = [collectives(each) for each in inner_jaxprs(equation)]
        match equation.primitive.name:
            case "scan":
                total += equation.params["length"] * sum(inner)
            case "cond":
                total += max(inner)
            case _:
                total += (equation.primitive.name in COLLECTIVES) + sum(inner)
    return total


def layer(x, w):
    return jnp.tanh(lax.psum(x @ w, "a")) + x


def ring(x, w):
    return lax.ppermute(jnp.sin(x @ w), "a", [(i, (i + 1) % 4) for i in range(4)]) * x


def gathered(x, w):
    full = lax.all_gather(x, "a", tiled=True)
    return lax.psum_scatter(jnp.sin(full @ w), "a", scatter_dimension=0, tiled=True) * x


def exchanged(x, w):
    return jnp.sin(lax.all_to_all(x @ w, "a", 1, 0, tiled=True).reshape(x.shape)) * x


LAYERS = {"psum": layer, "ppermute": ring, "all_gather and reduce_scatter": gathered, "all_to_all": exchanged}


def nested(step):
    """Outer and inner loops around a layer, with a checkpoint and a branch."""

    def body(x, w):
        def outer(c, _):
            c = lax.scan(lambda c, _: (step(c, w), None), c, None, length=2)[0]
            return jax.checkpoint(step)(c, w), None

        x = lax.scan(outer, x, None, length=3)[0]
        return lax.cond(jnp.sum(w) > 0, lambda: step(x, w), lambda: x)

    return body


FORMS = {
    "plain": lambda step: step,
    "checkpoint": jax.checkpoint,
    "scan": lambda step: lambda x, w: lax.scan(lambda c, _: (step(c, w), None), x, None, length=3)[0],
    "nested": nested,
}


def loss(body, check):
    mapped = jax.shard_map(body, mesh=MESH, in_specs=(P("a"), P()), out_specs=P("a"), check_vma=check)
    return lambda x, w: jnp.sum(mapped(x, w) ** 2)


@pytest.mark.parametrize("name", LAYERS)
def test_no_more_collectives_than_jax(name):
    for check in (True, False):
        for form, wrap in FORMS.items():
            f = loss(wrap(LAYERS[name]), check)
            ours, its = (jax.make_jaxpr(grad(f, (0, 1)))(X, W) for grad in (fb.grad, jax.grad))
            assert 0 < collectives(ours) <= collectives(its), (form, check)


@pytest.mark.parametrize("name", LAYERS)
def test_while_loops(name):
    """A step of the loop has no more in its backward than a step of JAX's scan, beside those of recomputing it."""
    step = LAYERS[name]

    def dynamic(x, w, n):
        mapped = jax.shard_map(
            lambda x, w, n: lax.fori_loop(0, n, lambda i, c: step(c, w), x),
            mesh=MESH, in_specs=(P("a"), P(), P()), out_specs=P("a"),
        )  # fmt: skip
        return jnp.sum(mapped(x, w, n) ** 2)

    one = collectives(jax.make_jaxpr(jax.grad(loss(step, True), (0, 1)))(X, W))
    forward = collectives(jax.make_jaxpr(loss(step, True))(X, W))
    found = collectives(jax.make_jaxpr(fb.grad(dynamic, (0, 1)))(X, W, 3))
    assert found <= one + 3 * forward


def test_the_count():
    """It sees what is within loops and branches."""
    assert collectives(jax.make_jaxpr(loss(layer, True))(X, W)) == 1
    assert collectives(jax.make_jaxpr(loss(nested(layer), True))(X, W)) == 3 * (2 + 1) + 1
