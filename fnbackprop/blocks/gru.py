"""The gated recurrent unit over a sequence, with its backward written out; the reset gate acts after the product.

Source of the cell: K. Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014, version 3.
"""

import jax
import jax.numpy as jnp

from .recurrence import Cell, over_a_sequence


def plain(z, q, state):
    """The definition: z and q hold the parts reset, update and new side by side."""
    (h,) = state
    z_r, z_u, z_n = jnp.split(z, 3, axis=-1)
    q_r, q_u, q_n = jnp.split(q, 3, axis=-1)
    update = jax.nn.sigmoid(z_u + q_u)
    return (update * h + (1 - update) * jnp.tanh(z_n + jax.nn.sigmoid(z_r + q_r) * q_n),)


def forward(z, q, state):
    (before,) = state
    z_r, z_u, z_n = jnp.split(z, 3, axis=-1)
    q_r, q_u, q_n = jnp.split(q, 3, axis=-1)
    r, u = jax.nn.sigmoid(z_r + q_r), jax.nn.sigmoid(z_u + q_u)  # 1
    n = jnp.tanh(z_n + r * q_n)  # 2
    h = u * before + (1 - u) * n  # 3
    return (h,), jnp.concatenate([r, u, n, q_n], axis=-1)


def backward(gates, before, _h, dstate):
    r, u, n, q_n = jnp.split(gates, 4, axis=-1)
    (dh,) = dstate
    du, dn, dbefore = dh * (before - n), dh * (1 - u), dh * u  # through 3
    dz_n = dn * (1 - n * n)  # through 2
    dr, dq_n = dz_n * q_n, dz_n * r
    dz_r, dz_u = dr * r * (1 - r), du * u * (1 - u)  # through 1
    dz, dq = (jnp.concatenate([dz_r, dz_u, last], axis=-1) for last in (dz_n, dq_n))
    return dz, dq, (dbefore,)


gru = over_a_sequence("gru", Cell(forward, backward, plain))
