"""The plain recurrent network: a stack of layers, each one scan over time.

    h' = tanh(x W + h R + b)

Its gradient through T steps is a product of T Jacobians, which vanishes or explodes: `experiments/recurrent.py`.

Source: J. L. Elman, Finding Structure in Time, 1990.
"""

import jax
import jax.numpy as jnp

from fnbackprop.blocks.rnn import rnn as block
from fnbackprop.models import recurrent
from fnbackprop.models.recurrent import Params


def init(
    key: jax.Array,
    *,
    inputs: int,
    hidden: int,
    layers: int = 1,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Params:
    """{"layers": [{"input": linear with bias, "recurrent": linear without}, ...]}.

    The input's weight is Glorot uniform and the recurrent weight orthogonal; biases are 0.

    Args:
        key: the random key.
        inputs: features in.
        hidden: the width of h.
        layers: how many are stacked.
        dtype: of the parameters.
    """
    return recurrent.init_layers(key, inputs=inputs, hidden=hidden, layers=layers, gates=1, dtype=dtype)


def initial_state(params: Params, batch_shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """h, zeros of (layers, *batch_shape, hidden)."""
    return recurrent.zeros(params, batch_shape, 1, dtype)[0]


def apply(
    params: Params,
    x: jax.Array,
    state: jax.Array | None = None,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Run over time, from `state` or from zeros.

    Args:
        params: from `init`.
        x: (..., time, inputs), usually (batch, time, inputs).
        state: h of (layers, ..., hidden), as an earlier call returned it.
        dropout: the rate, on what goes from one layer to the next.
        key: of the dropout; None for none.

    Returns:
        The outputs of the last layer, (..., time, hidden), and the final h, (layers, ..., hidden).

    Raises:
        ValueError: x or the state has the wrong shape.
    """
    start = recurrent.require_state("rnn", params, x, None if state is None else {"h": state}, 1)
    y, (h,) = recurrent.apply_layers(block, params, x, start, dropout=dropout, key=key)
    return y, h
