"""The linear layer, y = x w + b: the other models are built from it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

Params = dict[str, Any]


def init(
    key: jax.Array,
    *,
    inputs: int,
    outputs: int,
    bias: bool = True,
    initializer: initializers.Initializer | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Params:
    """{"w": (inputs, outputs), "b": (outputs,)}: w Glorot uniform unless an initializer is given, b zero.

    Args:
        key: the random key that w is drawn from.
        inputs: features in.
        outputs: features out.
        bias: whether there is a "b".
        initializer: `initializer(key, shape, dtype)`, as in `jax.nn.initializers`.
        dtype: of the parameters.

    Source: X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010.
    """
    initializer = initializers.glorot_uniform() if initializer is None else initializer
    params = {"w": initializer(key, (inputs, outputs), jnp.float32).astype(dtype)}
    return params | {"b": jnp.zeros((outputs,), dtype)} if bias else params


def apply(params: Params, x: jax.Array) -> jax.Array:
    """x w + b for x of (..., inputs), giving (..., outputs) in the dtype of x."""
    require_inputs(params, x)
    return add_bias(params, jnp.dot(x, params["w"].astype(x.dtype)))


def require_inputs(params: Params, x: jax.Array) -> None:
    """Raise ValueError unless the last axis of x has the features that the layer takes."""
    inputs = params["w"].shape[0]
    if x.shape[-1:] != (inputs,):
        raise ValueError(f"linear: x of shape {x.shape} must have {inputs} features on its last axis.")


def add_bias(params: Params, y: jax.Array) -> jax.Array:
    """y + b along the last axis, or y as it is where params has no "b"."""
    return y + jnp.broadcast_to(params["b"].astype(y.dtype), y.shape) if "b" in params else y
