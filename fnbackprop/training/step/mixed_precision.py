"""Mixed precision: the dtypes of parameters, computation and results, and the loss scale that float16 needs.

Source: P. Micikevicius et al., Mixed Precision Training, 2018: parameters are kept and updated in float32, products are
taken in 16 bits, and the loss is scaled so that small cotangents do not vanish in float16.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop.experiment import ExperimentError

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Precision:
    """Which dtype floating arrays have, and where; None leaves them as they are.

    Attributes:
      params: of the parameters that are kept and updated.
      compute: of the parameters and the batch as the loss is given them.
      output: of the loss and its metrics, and so of the first cotangent.
      loss_scaling: whether the loss is multiplied by a scale that adapts itself, and the gradient divided by it.
    """

    params: str | None = None
    compute: str | None = None
    output: str | None = None
    loss_scaling: bool = False

    def __post_init__(self):
        for name in ("params", "compute", "output"):
            dtype = getattr(self, name)
            if dtype not in (None, *DTYPES):
                raise ExperimentError(f"precision: {name} must be one of {', '.join(DTYPES)}, or None, not {dtype!r}.")


PRESETS = {
    "float32": Precision("float32", "float32", "float32"),
    "bfloat16": Precision("float32", "bfloat16", "float32"),
    "float16": Precision("float32", "float16", "float32", loss_scaling=True),
}


def precision_of(setting: str | Precision | None) -> Precision:
    """A preset by name, or the precision itself; None changes no dtype.

    Raises:
      ExperimentError: there is no such preset.
    """
    if setting is None or isinstance(setting, Precision):
        return setting or Precision()
    if setting not in PRESETS:
        raise ExperimentError(f"precision must be a Precision or one of {', '.join(PRESETS)}, not {setting!r}.")
    return PRESETS[setting]


def cast(tree: Any, dtype: str | None) -> Any:
    """The tree with its floating leaves in this dtype; None, integers, booleans and keys stay as they are."""
    if dtype is None:
        return tree

    def cast_leaf(leaf: Any) -> Any:
        floating = jnp.issubdtype(jax.dtypes.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf).astype(dtype) if floating else leaf

    return jax.tree.map(cast_leaf, tree)


# ---------------------------------------------------------------- the loss scale

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
