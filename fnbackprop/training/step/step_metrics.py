"""The metrics that every step has besides its loss: norms of the gradient and of the update."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from fnbackprop import trees

from .trainable import trained_only

LAYER_NORMS = "layer_gradient_norms"  # a `LayerNorms`
LAYER_PREFIX = "gradient_norm/"
WATCHED = "watch/"  # before the name of each size that is watched: "watch/cotangent/<value>/<step of its loop>"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerNorms:
    """The gradient norm of each layer that is trained, an array (layers,), and the layers' names."""

    values: jax.Array
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})


def step_metrics(
    gradient: Any, before: Any, after: Any, trainable: Sequence[bool] | None = None
) -> dict[str, jax.Array | LayerNorms]:
    """The gradient's norm, in all and for each layer, and the size of the update relative to the parameters.

    Args:
      gradient: of the parameters.
      before, after: the parameters before and after the update.
      trainable: whether each leaf is trained; the others are left out. None trains all.

    Returns:
      "gradient_norm", a scalar; "update_ratio", the scalar |after - before| / |before|; `LAYER_NORMS`.
    """
    gradient, before, after = (trained_only(tree, trainable) for tree in (gradient, before, after))
    layers = trees.layers(gradient)
    norms = trees.norms([gradient, *layers.values()])
    return {
        "gradient_norm": norms[0],
        "update_ratio": trees.relative_change(before, after),
        LAYER_NORMS: LayerNorms(norms[1:], tuple(layers)),
    }


def expand_layer_norms(row: dict[str, Any], kept: bool) -> dict[str, Any]:
    """The metrics of a step with "gradient_norm/<layer>" in place of `LAYER_NORMS`; without them, if not kept."""
    norms = row.pop(LAYER_NORMS, None)
    if norms is None or not kept:
        return row
    return {**row, **{LAYER_PREFIX + name: float(x) for name, x in zip(norms.names, norms.values, strict=True)}}
