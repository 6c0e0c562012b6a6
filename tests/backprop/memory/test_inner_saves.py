"""What a checkpoint's policy saves inside scan, cond and jit, and that the rest alone is computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import fnbackprop as fb
from fnbackprop.jaxprs.graph import all_equations

from ...rules.checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")
X, W = np.linspace(0.5, 1, 3), np.cos(np.arange(9.0)).reshape(3, 3)
DOTS, NAMES = jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.save_only_these_names("kept")


def layers(w, x):
    for _ in range(3):
        x = jnp.sin(checkpoint_name(x @ w, "kept"))
    return x


def in_scan(w):
    return lax.scan(lambda x, _: (layers(w, x), None), jnp.asarray(X), None, length=2)[0]


def in_cond(w):
    return lax.cond(X[0] > 0, lambda x: layers(w, x), lambda x: 2 * x, jnp.asarray(X))


def in_both(w):
    def body(x, c):
        return lax.cond(c > 0, jax.jit(lambda x: layers(w, x)), lambda x: jnp.sin(x @ (2 * w)), x), jnp.tanh(x)

    return lax.scan(body, jnp.asarray(X), jnp.asarray([1.0, -1.0]))


def shapes_saved(pullback):
    return sorted(leaf.shape for leaf in jax.tree.leaves(pullback))


@pytest.mark.parametrize("policy", [DOTS, NAMES])
def test_products_are_saved_and_not_computed_again(policy):
    """Of each product two more for its cotangents; of the first layer's sines one more for the carry of a scan."""

    def counts(function):
        value, pullback = fb.vjp(jax.checkpoint(function, policy=policy), W)
        equations = list(all_equations(jax.make_jaxpr(pullback)(value)))
        names = [e.primitive.name for e in equations]
        return [names.count(name) for name in ("sin", "cos", "dot_general")], shapes_saved(pullback)

    assert counts(in_scan) == ([3, 3, 6], [(2, 3), (2, 3), (2, 3), (3,), (3, 3)])
    assert counts(in_cond) == ([2, 3, 5], [(3,), (3,), (3,), (3,), (3, 3)])


def test_branches_share_the_slots_of_what_they_save():
    """The one branch saves three products, the other one: three stacks for both, beside the operands."""
    _, pullback = fb.vjp(jax.checkpoint(in_both, policy=DOTS), W)
    assert [shape for shape in shapes_saved(pullback) if len(shape) == 2] == [(2, 3), (2, 3), (2, 3), (3, 3)]


def test_values():
    """First and second derivatives, under jit and vmap, are those without a checkpoint."""

    def derivatives(function, lib):
        def loss(w):
            return sum(jnp.sum(y**2) for y in jax.tree.leaves(function(w)))

        return jax.jit(lambda w: (
            lib.grad(loss)(w),
            jax.vmap(lib.grad(loss))(jnp.stack([w, -w])),
            lib.grad(lambda w: jnp.sum(jnp.sin(lib.grad(loss)(w))))(w),
        ))(W)  # fmt: skip

    assert_close(derivatives(jax.checkpoint(in_both, policy=DOTS), fb), derivatives(in_both, jax), 1e-12)
