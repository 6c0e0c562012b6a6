"""The long short-term memory over a sequence, with its backward written out.

Source of the cell: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, 1997; F. A. Gers et al., 2000.
"""

import jax
import jax.numpy as jnp

from .recurrence import Cell, over_a_sequence


def plain(z, q, state):
    """The definition: z + q holds the gates i, f, g and o side by side."""
    i, f, g, o = jnp.split(z + q, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def forward(z, q, state):
    _, before = state
    i, f, g, o = jnp.split(z + q, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)  # 1
    c = f * before + i * g  # 2
    h = o * jnp.tanh(c)  # 3
    return (h, c), (jnp.concatenate([i, f, g, o], axis=-1), before)


def backward(saved, _before, _h, dstate):
    gates, before = saved
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    dh, dc = dstate
    t = jnp.tanh(f * before + i * g)  # of line 2, anew
    do, dc = dh * t, dc + dh * o * (1 - t * t)  # through 3
    di, df, dg, dbefore = dc * g, dc * before, dc * i, dc * f  # through 2
    parts = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)]  # through 1
    dz = jnp.concatenate(parts, axis=-1)
    return dz, dz, (jnp.zeros_like(dh), dbefore)


lstm = over_a_sequence("lstm", Cell(forward, backward, plain))
