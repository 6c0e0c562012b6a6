"""Names for values inside a function."""

from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name


def name(x: Any, name: str) -> Any:
    """`x`, with a name by which `fb.trace` shows its value and its cotangent. JAX's own `checkpoint_name` is the same.

    Args:
      x: an array or a pytree of them, inside a function that is traced, or under `grad`, `jit`, `vmap`, a loop.
      name: "attention/scores", for instance.

    Returns:
      `x`, unchanged, of the same shapes and dtypes.
    Raises:
      TypeError: the name is no string.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp
      >>> def loss(w):
      ...     scores = fb.name(3 * w, "scores")
      ...     return jnp.sum(scores**2)
      >>> fb.trace(loss, jnp.ones(2)).cotangent("scores")
      Array([6., 6.], dtype=float32)
    """
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, name), x)
