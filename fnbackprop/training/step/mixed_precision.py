"""Mixed precision: the dtypes of parameters, computation and results.

Source: P. Micikevicius et al., Mixed Precision Training, 2018: parameters are kept and updated in float32, products are
taken in 16 bits. The loss scale that float16 needs is in `loss_scale.py`.
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
      compute: of the parameters and the batch when the loss is computed.
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
