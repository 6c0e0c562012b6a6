"""The plain recurrent network over a sequence, h' = tanh(z + q), with its backward written out."""

import jax.numpy as jnp

from .recurrence import Cell, over_a_sequence


def plain(z, q, state):
    """The definition."""
    return (jnp.tanh(z + q),)


def forward(z, q, state):
    h = jnp.tanh(z + q)  # 1
    return (h,), ()


def backward(_saved, _before, h, dstate):
    (dh,) = dstate
    dz = dh * (1 - h * h)  # through 1
    return dz, dz, (jnp.zeros_like(dh),)


rnn = over_a_sequence("rnn", Cell(forward, backward, plain))
