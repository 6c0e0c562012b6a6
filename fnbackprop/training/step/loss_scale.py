"""The loss scale that float16 needs: small cotangents would vanish in it.

Source: P. Micikevicius et al., Mixed Precision Training, 2018, section 3.2.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

FIRST_SCALE = 2.0**15
SMALLEST_SCALE, LARGEST_SCALE = 1.0, 2.0**24
STEPS_TO_DOUBLE = 2000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """The scale of the loss, a float32 scalar, and the steps since it last changed, an int32 scalar."""

    value: jax.Array
    steps: jax.Array

    @classmethod
    def first(cls) -> "LossScale":
        return cls(jnp.float32(FIRST_SCALE), jnp.int32(0))

    def after(self, finite: jax.Array) -> "LossScale":
        """Half the scale (at least 1) if the gradient was not finite; twice after 2000 steps on end that were."""
        doubles = finite & (self.steps + 1 >= STEPS_TO_DOUBLE)
        raised = jnp.where(doubles, jnp.minimum(2 * self.value, LARGEST_SCALE), self.value)
        value = jnp.where(finite, raised, jnp.maximum(self.value / 2, SMALLEST_SCALE))
        return LossScale(value, jnp.where(finite & ~doubles, self.steps + 1, 0))


def all_finite(tree: Any) -> jax.Array:
    """Whether no leaf holds a NaN or an infinity."""
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
