"""The exponential moving average of the parameters.

Source: B. Polyak, A. Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992, in its exponential form;
the short memory of the first steps is TensorFlow's `num_updates` rule.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fnbackprop import trees


def first_average(params: Any) -> Any:
    """The average before the first update: the parameters, in float32 at least, for a small change is lost in fewer."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, trees.sum_dtype(leaf), copy=True), params)


def next_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """d average + (1 - d) params, with d = min(decay, (1 + step) / (10 + step)), so that the beginning is forgotten."""
    step = step.astype(jnp.float32)
    new_share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    wide = jax.tree.map(lambda leaf, kept: leaf.astype(kept.dtype), params, average)
    with jax.numpy_dtype_promotion("standard"):  # of the real share and a complex parameter
        return optax.incremental_update(wide, average, new_share)
