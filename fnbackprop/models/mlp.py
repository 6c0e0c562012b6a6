"""The multilayer perceptron: linear layers with an activation between."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from fnbackprop.models import dropout as dropouts
from fnbackprop.models import linear

Params = dict[str, Any]


def init(
    key: jax.Array,
    *,
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Params:
    """{"layers": [linear, ...]}, one per hidden width and one for the outputs.

    The layers before an activation are He normal, made for ReLU; the last is Glorot uniform.

    Args:
        key: the random key.
        inputs: features in.
        hidden: the width of each hidden layer; () gives a single linear layer.
        outputs: features out.
        dtype: of the parameters.

    Source: K. He et al., Delving Deep into Rectifiers, 2015.
    """
    widths = [inputs, *hidden]
    *hidden_keys, output_key = jax.random.split(key, len(widths))
    layers = [
        linear.init(k, inputs=m, outputs=n, initializer=initializers.he_normal(), dtype=dtype)
        for k, m, n in zip(hidden_keys, widths, hidden, strict=False)
    ]
    return {"layers": [*layers, linear.init(output_key, inputs=widths[-1], outputs=outputs, dtype=dtype)]}


def apply(
    params: Params,
    x: jax.Array,
    *,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """x of (..., inputs) to (..., outputs); dropout after each activation."""
    *hidden, last = params["layers"]
    for layer, layer_key in zip(hidden, dropouts.split_key(key, len(hidden)), strict=True):
        x = activation(linear.apply(layer, x))
        x = dropouts.apply(x, rate=dropout, key=layer_key)
    return linear.apply(last, x)
