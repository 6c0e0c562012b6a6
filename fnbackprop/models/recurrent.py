"""What the recurrent networks share: a stack of layers, each a scan over time.

A layer is {"input": linear with bias, "recurrent": linear}, for all its gates side by side. Its state is a tuple of
arrays of (..., hidden) of which the first, h, is the output. A block of `blocks/` takes a layer over the sequence; its
plain definition, one step after the other, is its attribute `plain`.

Dropout is between the layers and never along time (W. Zaremba et al., Recurrent Neural Network Regularization, 2014).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from fnbackprop.blocks.block import Block
from fnbackprop.jaxprs.avals import explicit_sharding
from fnbackprop.models import dropout as dropouts
from fnbackprop.models import linear

Params = dict[str, Any]
State = tuple[jax.Array, ...]
WEIGHTS = ("input", "w"), ("input", "b"), ("recurrent", "w"), ("recurrent", "b")


def init_layers(
    key: jax.Array,
    *,
    inputs: int,
    hidden: int,
    layers: int,
    gates: int,
    recurrent_bias: bool = False,
    dtype: jax.typing.DTypeLike,
) -> Params:
    """{"layers": [{"input", "recurrent"}, ...]}.

    For every gate on its own, the input's weight is Glorot uniform and the recurrent weight orthogonal; biases are 0.

    Source of the latter: A. M. Saxe et al., Exact solutions to the nonlinear dynamics of learning, 2014.
    """
    glorot, orthogonal = (_per_gate(draw, gates) for draw in (initializers.glorot_uniform(), initializers.orthogonal()))
    sizes = {"outputs": gates * hidden, "dtype": dtype}

    def init_layer(key: jax.Array, width: int) -> Params:
        one, two = jax.random.split(key)
        return {
            "input": linear.init(one, inputs=width, initializer=glorot, **sizes),
            "recurrent": linear.init(two, inputs=hidden, bias=recurrent_bias, initializer=orthogonal, **sizes),
        }

    widths = [inputs] + [hidden] * (layers - 1)
    return {"layers": [init_layer(k, width) for k, width in zip(jax.random.split(key, layers), widths, strict=True)]}


def zeros(params: Params, batch_shape: tuple[int, ...], parts: int, dtype: jax.typing.DTypeLike) -> State:
    """The state to begin with: `parts` arrays of (layers, *batch_shape, hidden)."""
    hidden = params["layers"][0]["recurrent"]["w"].shape[0]
    return (jnp.zeros((len(params["layers"]), *batch_shape, hidden), dtype),) * parts


def apply_layers(
    block: Block,
    params: Params,
    x: jax.Array,
    state: State,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> tuple[jax.Array, State]:
    """Run over time.

    Args:
        block: of a layer, see the head of this module.
        params: from `init_layers`.
        x: (..., time, inputs), usually (batch, time, inputs).
        state: arrays of (layers, ..., hidden), from `require_state`.
        dropout: the rate, on what goes from one layer to the next.
        key: of the dropout; None for none.

    Returns:
        The outputs of the last layer, (..., time, hidden), and the final state, arrays of (layers, ..., hidden).
    """
    layer_keys = dropouts.split_key(key, len(params["layers"]))
    finals = []
    for i, layer in enumerate(params["layers"]):
        x = dropouts.apply(x, rate=dropout, key=layer_keys[i]) if i else x
        x, final = _apply_layer(block, layer, x, tuple(part[i] for part in state))
        finals.append(final)
    return x, tuple(jnp.stack(parts) for parts in zip(*finals, strict=True))


def require_state(name: str, params: Params, x: jax.Array, state: dict[str, jax.Array] | None, parts: int) -> State:
    """The initial state in the dtype of x: the given one, by the names of its parts, or zeros.

    Raises:
        ValueError: x is not (..., time, inputs), or a part of the state is not (layers, ..., hidden).
    """
    if x.ndim < 2:
        raise ValueError(f"{name}: x of shape {x.shape} must be (..., time, inputs).")
    expected = zeros(params, x.shape[:-2], parts, x.dtype)
    if state is None:
        return expected
    for (label, part), zero in zip(state.items(), expected, strict=True):
        if part.shape != zero.shape:
            wanted = f"(layers, ..., hidden) = {zero.shape} for x of {x.shape}"
            raise ValueError(f"{name}: {label} of shape {part.shape} must be {wanted}.")
    return tuple(part.astype(x.dtype) for part in state.values())


def _per_gate(initializer: initializers.Initializer, gates: int) -> Callable[..., jax.Array]:
    """Draws (inputs, gates * hidden) as matrices of (inputs, hidden) side by side."""

    def draw(key, shape, dtype):
        inputs, hidden = shape[0], shape[1] // gates
        return jnp.concatenate([initializer(k, (inputs, hidden), dtype) for k in jax.random.split(key, gates)], axis=1)

    return draw


def _apply_layer(block: Block, params: Params, x: jax.Array, state: State) -> tuple[jax.Array, State]:
    """x of (..., time, inputs) through one layer: the block, on (time, rows, inputs)."""
    linear.require_inputs(params["input"], x)
    weights = [params[part][name].astype(x.dtype) if name in params[part] else None for part, name in WEIGHTS]
    inputs = jnp.moveaxis(x, -2, 0)  # (time, ..., inputs)
    if explicit_sharding(jax.typeof(x)) is not None:  # the block's products do not say where their results lie
        h, state = (block.plain or block)(inputs, *weights, state)
        return jnp.moveaxis(h, 0, -2), state
    rows = tuple(part.reshape(-1, part.shape[-1]) for part in state)
    h, final = block(inputs.reshape(x.shape[-2], rows[0].shape[0], x.shape[-1]), *weights, rows)
    h = h.reshape(*inputs.shape[:-1], h.shape[-1])  # (time, ..., hidden)
    return jnp.moveaxis(h, 0, -2), tuple(part.reshape(like.shape) for part, like in zip(final, state, strict=True))
