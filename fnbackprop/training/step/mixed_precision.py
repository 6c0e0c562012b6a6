"""Mixed precision: the dtypes of parameters, computation and results.

Source: P. Micikevicius et al., Mixed Precision Training, 2018: parameters are kept and updated in float32, products are
taken in 16 bits. The loss scale that float16 needs is in `loss_scale.py`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop import trees
from fnbackprop.experiment import ExperimentError

INPUTS = ("x", "input*", "image*", "pixel*", "feature*", "observation*")
"""Which arrays of a batch are a network's inputs, by their names; see `Precision.batch`."""

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Precision:
    """Which dtype floating arrays have, and where; None leaves them as they are.

    Attributes:
      params: of the parameters that are kept and updated.
      compute: of the parameters and of the batch's inputs when the loss is computed.
      output: of the loss and its metrics, and so of the first cotangent.
      loss_scaling: whether the loss is multiplied by a scale that adapts itself, and the gradient divided by it.
      batch: patterns of the paths of those floating arrays of a batch that are computed with in `compute`, with
        everything below them; `("*",)` is all. The others keep their dtype: 16 bits would round positions, times,
        weights and targets. By default, the inputs: `INPUTS`, the first of a tuple, or the batch if it is one array.

    Raises:
      ExperimentError: a dtype is none of those that are supported.
    Example:
      >>> import fnbackprop as fb
      >>> fb.Precision(params="float32", compute="bfloat16", output="float32").compute
      'bfloat16'
    """

    params: str | None = None
    compute: str | None = None
    output: str | None = None
    loss_scaling: bool = False
    batch: tuple[str, ...] = INPUTS

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
    """The tree with its floating leaves in this dtype; None, complex numbers, integers and keys stay as they are."""
    return tree if dtype is None else jax.tree.map(lambda leaf: _cast_leaf(leaf, dtype), tree)


def cast_inputs(batch: Any, precision: Precision) -> Any:
    """The batch with the arrays that `precision.batch` names in the dtype to compute in.

    Raises:
      ExperimentError: a pattern of the user's own matches nothing.
    """
    dtype = precision.compute
    if dtype is None:
        return batch
    for pattern in precision.batch if precision.batch != INPUTS else ():
        if not any(trees.within(path, (pattern,)) for path, _ in trees.leaves_with_paths(batch)):
            paths = ", ".join(path for path, _ in trees.leaves_with_paths(batch))
            raise ExperimentError(f"precision: no array of the batch matches {pattern!r}; they are {paths}.")

    def cast_leaf(path: str, leaf: Any) -> Any:
        return _cast_leaf(leaf, dtype) if _is_input(path, batch, precision.batch) else leaf

    return trees.map_with_paths(cast_leaf, batch)


def uncast_note(batch: Any, precision: Precision) -> str | None:
    """What to know if a batch has floating arrays and none is an input by its name: it is computed with as it is."""
    floating = [path for path, leaf in trees.leaves_with_paths(batch) if _is_floating(leaf)]
    inputs = [path for path in floating if _is_input(path, batch, precision.batch)]
    lowers = precision.compute in ("bfloat16", "float16") and precision.batch == INPUTS
    if not lowers or not floating or inputs:
        return None
    names, known, wanted = ", ".join(floating), ", ".join(INPUTS), f"fb.Precision(..., batch=({floating[0]!r},))"
    return (
        f"precision {precision.compute}: {names} of the batch keep their dtype, for none has the name of an input "
        f"({known}). To compute with one in {precision.compute}: {wanted}"
    )


def _is_input(path: str, batch: Any, patterns: tuple[str, ...]) -> bool:
    if patterns == INPUTS and (path == "" or (isinstance(batch, tuple) and path.split("/")[0] == "0")):
        return True
    return trees.within(path, patterns)


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jax.dtypes.result_type(leaf), jnp.floating)


def _cast_leaf(leaf: Any, dtype: str) -> Any:
    return jnp.asarray(leaf).astype(dtype) if _is_floating(leaf) else leaf
