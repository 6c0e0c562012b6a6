"""Dropout by explicit keys: without a key, or at rate 0, nothing is dropped.

Source: N. Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014; scaled in
training ("inverted"), so that there is nothing to scale in evaluation.
"""

import jax
import jax.numpy as jnp


def apply(x: jax.Array, *, rate: float, key: jax.Array | None) -> jax.Array:
    """x with each element zero with probability `rate`, and otherwise divided by 1 - rate: the mean stays.

    Raises:
        ValueError: rate is not in 0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate must be at least 0 and below 1, got {rate}.")
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


def split_key(key: jax.Array | None, count: int) -> jax.Array | list[None]:
    """`jax.random.split`, and as many None for no key."""
    return [None] * count if key is None else jax.random.split(key, count)
