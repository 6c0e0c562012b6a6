"""What the tests of recurrent cells share: one step against its definition, and errors planted in its backward."""

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb
from fnbackprop.blocks import recurrence

from ..rules.checking import assert_close

ROWS, HIDDEN = 3, 2


def step_operands(gates, parts, dtype="float64"):
    """(z, q, state) of random numbers, with a row where gates are saturated."""
    rng = np.random.default_rng(0)
    z, q = (jnp.asarray(rng.normal(size=(ROWS, gates * HIDDEN)), dtype).at[0].mul(20) for _ in range(2))
    return z, q, tuple(jnp.asarray(rng.normal(size=(ROWS, HIDDEN)), dtype) for _ in range(parts))


def check_step(cell, gates, parts):
    """Forward and backward of one step are those of the plain definition."""
    z, q, state = step_operands(gates, parts)
    after, saved = cell.forward(z, q, state)
    want, pullback = jax.vjp(cell.plain, z, q, state)
    assert_close(after, want, 1e-14)
    dstate = tuple(jnp.cos(1.0 + part) for part in after)
    assert_close(cell.backward(saved, state[0], after[0], dstate), pullback(dstate), 1e-13)


def check_planted_errors(cell, gates, parts):
    """`fb.compare` passes the layer, and catches each cotangent of its step that is 1 % too large."""
    z, _, state = (jax.tree.map(lambda x: x.astype("float32"), x) for x in step_operands(gates, parts))
    state = tuple(x[1:] for x in state)
    x = jnp.stack([state[0], state[0][::-1], 2 * state[0]])  # (time, rows, inputs)
    w = z[1:]  # (inputs or hidden, gates): two rows of each

    def verdict(backward):
        layer = recurrence.over_a_sequence("layer", recurrence.Cell(cell.forward, backward, cell.plain))

        def loss(x, w, state):
            h, final = layer(x, w, None, w, None, state)
            return jnp.sum(jnp.sin(h)) + sum(jnp.sum(jnp.cos(part)) for part in final)

        return fb.compare(loss, x, w, state, argnums=(0, 1, 2)).ok

    assert verdict(cell.backward)
    for i in range(3):

        def wrong(*args, i=i):
            found = list(cell.backward(*args))
            found[i] = jax.tree.map(lambda ct: 1.01 * ct, found[i])
            return tuple(found)

        if i < 2 or parts > 1:  # of a state that reaches the next step through q alone, there is nothing to plant
            assert not verdict(wrong), f"the cotangent of {('z', 'q', 'the state')[i]}"
