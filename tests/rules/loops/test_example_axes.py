"""Where the axes of the examples go: followed through a program under vmap, and lost where it combines the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.rules.loops.example_axes import follow

W = np.eye(3) + 0.1
X = np.linspace(0.1, 1.0, 12).reshape(4, 3)


def steps(x):
    return lax.while_loop(lambda s: jnp.sum(s) < 9.0, lambda s: 2.0 * s, x)


SEPARATE = {
    "product from the left": lambda x: W @ x,
    "product of two rows": lambda x: jnp.outer(x, x) @ W,
    "solve": lambda x: jnp.linalg.solve(W + jnp.diag(x), x),
    "cholesky": lambda x: jnp.linalg.cholesky(W @ W.T + jnp.diag(x)),
    "index by a value": lambda x: x[jnp.argmax(x)] + x.at[jnp.argmin(x)].set(0.0),
    "sort and sums": lambda x: jnp.cumsum(jnp.sort(x)[::-1]) + jnp.max(x) + lax.top_k(x, 2)[0][0],
    "shapes": lambda x: jnp.pad(jnp.concatenate([x, x[:1]]).reshape(2, 2).T, 1)[1:],
    "loops": lambda x: (
        steps(x) + lax.scan(lambda c, x: (c + x, c * x), 1.0, x)[1] + lax.fori_loop(0, 3, lambda i, c: c * x, x)
    ),
    "branches": lambda x: lax.cond(x[0] > 0.5, jnp.sin, jnp.cos, x),
    "custom rules": lambda x: jax.nn.logsumexp(x) + jax.nn.relu(x) + jax.nn.softmax(x),
    "random bits": lambda x: x + jax.random.normal(jax.random.fold_in(jax.random.key(0), x[0].astype(int)), (3,)),
}
COMBINING = {
    "psum": lambda x: x + lax.psum(x, "i"),
    "mean": lambda x: x - lax.pmean(jnp.sum(x), "i"),
    "all_gather": lambda x: lax.all_gather(x, "i"),
    "ppermute": lambda x: lax.ppermute(x, "i", [(0, 1), (1, 2), (2, 3), (3, 0)]),
    "within a loop": lambda x: lax.fori_loop(0, 2, lambda i, c: c + lax.psum(c, "i"), x),
    "product with another": lambda x: lax.all_gather(x, "i") @ x,
    "condition": lambda x: lax.while_loop(lambda s: lax.psum(s[0], "i") < 9.0, lambda s: 2.0 * s, x),
}


def outputs(f):
    closed = jax.make_jaxpr(jax.vmap(f, axis_name="i"))(X)
    return follow(closed, [(0,)])


@pytest.mark.parametrize("name", SEPARATE)
def test_separate_examples(name):
    assert outputs(SEPARATE[name]) == [(0,)]


@pytest.mark.parametrize("name", COMBINING)
def test_combined_examples(name):
    assert outputs(COMBINING[name]) != [(0,)]


def test_two_batches_in_another_order():
    closed = jax.make_jaxpr(lambda x: jnp.swapaxes(x, 0, 1) * 2.0)(np.zeros((2, 4, 3)))
    assert follow(closed, [(0, 1)]) == [(1, 0)]
    closed = jax.make_jaxpr(lambda x, c: (jnp.sum(x, 2), c))(np.zeros((2, 4, 3)), 1.0)
    assert follow(closed, [(0, 1), None]) == [(0, 1), None]
