"""The long short-term memory: a stack of layers, each one scan over time.

With z = x W + h R + b, split in this order into the gates i, f, g and o:

    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

Sources: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, 1997; F. A. Gers et al., Learning to Forget, 2000
(the forget gate f); R. Jozefowicz et al., An Empirical Exploration of Recurrent Network Architectures, 2015 (its bias
of 1).
"""

import jax
import jax.numpy as jnp

from fnbackprop.blocks.lstm import lstm as block
from fnbackprop.models import recurrent
from fnbackprop.models.recurrent import Params

State = recurrent.State  # (h, c)


def init(
    key: jax.Array,
    *,
    inputs: int,
    hidden: int,
    layers: int = 1,
    forget_bias: float = 1.0,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Params:
    """{"layers": [{"input": linear with bias, "recurrent": linear without}, ...]}.

    For every gate on its own, the input's weight is Glorot uniform and the recurrent weight orthogonal.

    Args:
        key: the random key.
        inputs: features in.
        hidden: the width of h and c.
        layers: how many are stacked.
        forget_bias: the bias of the forget gate; the others are 0.
        dtype: of the parameters.
    """
    params = recurrent.init_layers(key, inputs=inputs, hidden=hidden, layers=layers, gates=4, dtype=dtype)
    for layer in params["layers"]:
        layer["input"]["b"] = layer["input"]["b"].at[hidden : 2 * hidden].set(forget_bias)
    return params


def initial_state(params: Params, batch_shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32) -> State:
    """(h, c), both zeros of (layers, *batch_shape, hidden)."""
    return recurrent.zeros(params, batch_shape, 2, dtype)


def apply(
    params: Params,
    x: jax.Array,
    state: State | None = None,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> tuple[jax.Array, State]:
    """Run over time, from `state` or from zeros.

    Args:
        params: from `init`.
        x: (..., time, inputs), usually (batch, time, inputs).
        state: (h, c), both (layers, ..., hidden), as an earlier call returned them.
        dropout: the rate, on what goes from one layer to the next.
        key: of the dropout; None for none.

    Returns:
        The outputs of the last layer, (..., time, hidden), and the final (h, c), both (layers, ..., hidden).

    Raises:
        ValueError: x or the state has the wrong shape.
    """
    named = None if state is None else dict(zip("hc", state, strict=True))
    return recurrent.apply_layers(
        block, params, x, recurrent.require_state("lstm", params, x, named, 2), dropout=dropout, key=key
    )
