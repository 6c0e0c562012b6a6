"""Batch normalisation over all axes but the last, with running statistics for evaluation.

The statistics are no parameters: they are a model's state, which the loss of an `Experiment(has_state=True)` is given
and returns anew.

Source: S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training, 2015.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnbackprop.trees import accumulation_dtype

Params = dict[str, Any]
State = dict[str, jax.Array]


def init(*, width: int, dtype: jax.typing.DTypeLike = jnp.float32) -> tuple[Params, State]:
    """(params, state): {"scale": ones, "bias": zeros} and {"mean": zeros, "variance": ones}, each of (width,).

    The statistics are float32 whatever the dtype of the parameters. Nothing is random, so it takes no key.
    """
    params = {"scale": jnp.ones((width,), dtype), "bias": jnp.zeros((width,), dtype)}
    return params, {"mean": jnp.zeros((width,)), "variance": jnp.ones((width,))}


def apply(
    params: Params, state: State, x: jax.Array, *, training: bool, momentum: float = 0.9, epsilon: float = 1e-5
) -> tuple[jax.Array, State]:
    """(scale * (x - mean) / sqrt(variance + epsilon) + bias, the state after it) for x of (..., width).

    In training, mean and variance are those of the batch over all axes but the last (of the whole batch, where it is
    split over a mesh), and the running ones move towards them: m running + (1 - m) batch, with the unbiased variance.
    In evaluation they are the running ones, and the state stays. All is computed in float32 (float64 for float64); the
    result has the dtype of x.

    Example:
      >>> params, state = init(width=2)
      >>> x = jnp.array([[0.0, 1.0], [4.0, 3.0]])
      >>> y, state = apply(params, state, x, training=True)
      >>> print(y.round(3).tolist(), state["mean"])
      [[-1.0, -1.0], [1.0, 1.0]] [0.2 0.2]
    """
    dtype = accumulation_dtype(x)
    wide, axes = x.astype(dtype), tuple(range(x.ndim - 1))
    if training:
        mean = jnp.mean(wide, axis=axes)
        centred = wide - jnp.broadcast_to(mean, x.shape)
        variance = jnp.mean(jnp.square(centred), axis=axes)
        count = x.size // x.shape[-1]
        unbiased = variance * (count / max(count - 1, 1))
        state = {
            "mean": _moved(state["mean"], mean, momentum),
            "variance": _moved(state["variance"], unbiased, momentum),
        }
    else:
        centred = wide - jnp.broadcast_to(state["mean"].astype(dtype), x.shape)
        variance = state["variance"].astype(dtype)
    factor = params["scale"].astype(dtype) * lax.rsqrt(variance + epsilon)
    factor, bias = (jnp.broadcast_to(part, x.shape) for part in (factor, params["bias"].astype(dtype)))
    return (centred * factor + bias).astype(x.dtype), state


def _moved(running: jax.Array, batch: jax.Array, momentum: float) -> jax.Array:
    """The running statistic after a batch: a constant, through which no gradient flows."""
    return momentum * running + (1 - momentum) * lax.stop_gradient(batch).astype(running.dtype)
