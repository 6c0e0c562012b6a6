"""Random parameters drawn by numpy: initialising by JAX compiles one generator for every shape."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop import trees


def random_params(init: Callable[..., Any], **sizes: Any) -> Any:
    """The tree of `init(key, **sizes)` with nothing at its initial 0 or 1, and activations of about 1."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path.endswith("w"):
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            values = 0.3 * values + path.endswith("scale")
        return jnp.asarray(values, leaf.dtype)

    return trees.map_with_paths(draw, jax.eval_shape(lambda key: init(key, **sizes), jax.random.key(0)))
