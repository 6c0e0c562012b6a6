"""`jax.export` with a dimension that stays open: gradients are exported once and called with batches of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import fnbackprop as fb

from ..rules.checking import assert_close


def rows_scanned(w, x):
    return jnp.sum(lax.scan(lambda c, row: (jnp.sin(c + row @ w), c), jnp.zeros(2), x)[1])


def steps(w, x):
    return jnp.sum(lax.scan(lambda c, _: (jnp.tanh(c @ w @ w.T), None), x, None, length=3)[0])


def attention(w, x):
    return jnp.sum(jax.nn.softmax((x @ w) @ (x @ w).T) @ x)


PROGRAMS = {
    "a scan over rows": rows_scanned,
    "lax.map": lambda w, x: jnp.sum(lax.map(lambda row: jnp.sin(row @ w), x)),
    "a scan over steps": steps,
    "fori_loop": lambda w, x: jnp.sum(lax.fori_loop(0, 3, lambda i, c: jnp.sin(c), x @ w)),
    "cond": lambda w, x: lax.cond(jnp.sum(x) > 0, lambda: jnp.sum(jnp.sin(x @ w)), lambda: jnp.sum(x @ w)),
    "checkpoint": lambda w, x: jax.checkpoint(rows_scanned)(w, x),
    "attention": attention,
    "vmap": lambda w, x: jnp.mean(jax.vmap(lambda row: jnp.sin(row @ w))(x)),
    "gather": lambda w, x: jnp.sum(jnp.sin(x @ w)[jnp.array([0, 1, 0])]),
    "sort": lambda w, x: jnp.sum(jnp.sort(x @ w, axis=0)[0]),
    "convolution": lambda w, x: jnp.sum(jnp.sin(lax.conv(x[:, :, None], w[:2, :, None].repeat(2, 1), (1,), "VALID"))),
}


@pytest.mark.parametrize("options", [{}, {"fuse": True}], ids=["plain", "fuse"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_gradient_with_an_open_dimension(name, options):
    shapes = jax.ShapeDtypeStruct((4, 2), "float32"), jax.ShapeDtypeStruct(export.symbolic_shape("b, 4"), "float32")
    loss, random = PROGRAMS[name], np.random.default_rng(0)
    exported = [
        export.export(jax.jit(grad))(*shapes)
        for grad in (fb.grad(loss, argnums=(0, 1), **options), jax.grad(loss, argnums=(0, 1)))
    ]
    for rows in (2, 5):
        operands = [random.normal(size=shape).astype("float32") for shape in ((4, 2), (rows, 4))]
        assert_close(*(e.call(*operands) for e in exported), 1e-5, name)
