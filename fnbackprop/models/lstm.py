"""The long short-term memory: a stack of layers, each one scan over time.

With z = x W + h R + b, split in this order into the gates i, f, g and o:

    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

Sources: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, 1997; F. A. Gers et al., Learning to Forget, 2000
(the forget gate f); R. Jozefowicz et al., An Empirical Exploration of Recurrent Network Architectures, 2015 (its bias
of 1); A. M. Saxe et al., Exact solutions to the nonlinear dynamics of learning, 2014 (orthogonal R); W. Zaremba et
al., Recurrent Neural Network Regularization, 2014 (dropout between the layers and never along time).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from fnbackprop.models import dropout as dropouts
from fnbackprop.models import linear

Params = dict[str, Any]
State = tuple[jax.Array, jax.Array]


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
    widths = [inputs] + [hidden] * (layers - 1)
    keys = jax.random.split(key, layers)
    layer_params = [_init_layer(k, width, hidden, forget_bias, dtype) for k, width in zip(keys, widths, strict=True)]
    return {"layers": layer_params}


def initial_state(params: Params, batch_shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32) -> State:
    """(h, c), both zeros of (layers, *batch_shape, hidden)."""
    hidden = params["layers"][0]["recurrent"]["w"].shape[0]
    zeros = jnp.zeros((len(params["layers"]), *batch_shape, hidden), dtype)
    return zeros, zeros


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
    h, c = _require_state(params, x, state)
    layer_keys = dropouts.split_key(key, len(params["layers"]))
    finals = []
    for i, layer in enumerate(params["layers"]):
        x = dropouts.apply(x, rate=dropout, key=layer_keys[i]) if i else x
        x, final = _apply_layer(layer, x, (h[i], c[i]))
        finals.append(final)
    return x, tuple(jnp.stack(parts) for parts in zip(*finals, strict=True))


def _init_layer(
    key: jax.Array, inputs: int, hidden: int, forget_bias: float, dtype: jax.typing.DTypeLike
) -> Params:
    input_key, recurrent_key = jax.random.split(key)
    glorot, orthogonal = (_per_gate(draw) for draw in (initializers.glorot_uniform(), initializers.orthogonal()))
    sizes = {"outputs": 4 * hidden, "dtype": dtype}
    params = {
        "input": linear.init(input_key, inputs=inputs, initializer=glorot, **sizes),
        "recurrent": linear.init(recurrent_key, inputs=hidden, bias=False, initializer=orthogonal, **sizes),
    }
    params["input"]["b"] = params["input"]["b"].at[hidden : 2 * hidden].set(forget_bias)
    return params


def _per_gate(initializer: initializers.Initializer) -> initializers.Initializer:
    """Draws (inputs, 4 * hidden) as four matrices of (inputs, hidden) side by side."""

    def draw(key, shape, dtype):
        inputs, hidden = shape[0], shape[1] // 4
        return jnp.concatenate([initializer(k, (inputs, hidden), dtype) for k in jax.random.split(key, 4)], axis=1)

    return draw


def _apply_layer(params: Params, x: jax.Array, state: State) -> tuple[jax.Array, State]:
    z = linear.apply(params["input"], x)  # (..., time, 4 hidden): the input's product for all steps at once

    def step(state: State, z: jax.Array) -> tuple[State, jax.Array]:
        h, c = _cell(z + linear.apply(params["recurrent"], state[0]), state[1])
        return (h, c), h

    state, h = lax.scan(step, state, jnp.moveaxis(z, -2, 0))
    return jnp.moveaxis(h, 0, -2), state  # (..., time, hidden)


def _cell(z: jax.Array, c: jax.Array) -> State:
    i, f, g, o = jnp.split(z, 4, axis=-1)  # (..., hidden) each
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _require_state(params: Params, x: jax.Array, state: State | None) -> State:
    """The state to start from, in the dtype of x."""
    if x.ndim < 2:
        raise ValueError(f"lstm: x of shape {x.shape} must be (..., time, inputs).")
    expected = initial_state(params, x.shape[:-2], x.dtype)
    if state is None:
        return expected
    for name, part, zeros in zip("hc", state, expected, strict=True):
        if part.shape != zeros.shape:
            raise ValueError(
                f"lstm: {name} of shape {part.shape} must be (layers, ..., hidden) = {zeros.shape} for x of {x.shape}."
            )
    return tuple(part.astype(x.dtype) for part in state)
