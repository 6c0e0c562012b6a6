"""Sums over time that leave the reverse loop: seen in the loop's carry, and equal whether they leave it or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.jaxprs.compat import scan_groups

from ...rules.checking import assert_close, random_like

STEPS, BATCH, WIDTH = 5, 4, 16
XS = random_like(np.zeros((STEPS, BATCH, WIDTH), "float32"), 1)
W = random_like(np.zeros((WIDTH, WIDTH), "float32"), 2) / WIDTH
B = jnp.zeros(WIDTH)


def loss(w, b, xs):
    def step(h, x):
        return jnp.tanh(h @ w + x + b[None]), None

    return jnp.sum(jax.lax.scan(step, jnp.zeros((BATCH, WIDTH)), xs)[0])


def carried(**options):
    """The shapes of what the backward loop carries from step to step."""
    jaxpr = jax.make_jaxpr(fb.grad(loss, (0, 1), **options))(W, B, XS)
    scan = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "scan"][-1]
    body = scan.params["jaxpr"].jaxpr
    consts, carry = scan_groups(scan)
    return [v.aval.shape for v in body.invars[consts : consts + carry]]


def test_products_of_few_terms_leave_the_loop():
    """The weight's gradient is one product after the loop instead of a sum in it; the bias's stays, being cheap."""
    assert (WIDTH, WIDTH) not in carried() and (WIDTH, WIDTH) in carried(hoist=False)


@pytest.mark.parametrize("hoist", [True, False, None])
def test_gradients_are_equal(hoist):
    ours = jax.jit(fb.grad(loss, (0, 1), hoist=hoist))(W, B, XS)
    assert_close(ours, jax.jit(jax.grad(loss, (0, 1)))(W, B, XS), 1e-5)
