"""The exponential moving average of the parameters, and of a model's state. What is not floating is kept as it is last.

Source: B. Polyak, A. Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992, in its exponential form;
the short memory of the first steps is TensorFlow's `num_updates` rule.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop import trees
from fnbackprop.extras import needed_for

with needed_for("fb.train"):
    import optax


def first_average(params: Any) -> Any:
    """The average before the first update: the parameters, in float32 at least, for a small change is lost in fewer."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, _dtype(leaf)), params)


def next_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """d average + (1 - d) params, with d = min(decay, (1 + step) / (10 + step)), so that the beginning is forgotten."""
    step = step.astype(jnp.float32)
    new_share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))

    def of_leaf(leaf: jax.Array, kept: jax.Array) -> jax.Array:
        return optax.incremental_update(leaf.astype(kept.dtype), kept, new_share) if _is_averaged(leaf) else leaf

    with jax.numpy_dtype_promotion("standard"):  # of the real share and a complex parameter
        return jax.tree.map(of_leaf, params, average)


def in_dtypes_of(tree: Any, average: Any) -> Any:
    """The average in the dtypes of the tree itself."""
    return jax.tree.map(lambda leaf, kept: kept.astype(leaf.dtype) if _is_averaged(leaf) else kept, tree, average)


def _is_averaged(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _dtype(leaf: Any) -> Any:
    return trees.sum_dtype(leaf) if _is_averaged(leaf) else leaf.dtype
