"""The metrics that every step has besides its loss: norms of the gradient and of the update."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop import trees

from .trainable import trained_only

LAYER_NORMS = "layer_gradient_norms"  # a `LayerNorms`
LAYER_PREFIX = "gradient_norm/"
WATCHED = "watch/"  # before the name of each size that is watched: "watch/cotangent/<value>/<step of its loop>"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerNorms:
    """The gradient norm of each layer that is trained, as the device has it.

    Attributes:
      parts: norms of parts of the gradient, an array (parts,).
      names: of the layers.
      rows: which parts are of each layer; by default, one of each.
    """

    parts: jax.Array
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    rows: tuple[tuple[int, ...], ...] | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def values(self) -> np.ndarray:
        """The norm of each layer, (layers,): computed here, where it is asked for, and not in every step."""
        parts = np.asarray(self.parts, np.float64)
        return parts if self.rows is None else np.array([_joint(parts[list(own)]) for own in self.rows])


def _joint(parts: np.ndarray) -> float:
    """Their Euclidean norm; `hypot` of NaN and an infinity would be infinite."""
    return math.nan if np.isnan(parts).any() else math.hypot(*parts)


def step_metrics(
    gradient: Any,
    before: Any,
    after: Any,
    trainable: Sequence[bool] | None = None,
    measured: jax.Array | None = None,
) -> dict[str, jax.Array | LayerNorms]:
    """The gradient's norm, in all and for each layer, and the size of the update relative to the parameters.

    Args:
      gradient: of the parameters.
      before, after: the parameters before and after the update.
      trainable: whether each leaf is trained; the others are left out. None trains all.
      measured: a bool scalar, without which nothing is computed and all are zero; None measures always.

    Returns:
      "gradient_norm", a scalar; "update_ratio", the scalar |after - before| / |before|; `LAYER_NORMS`.
    """
    if measured is not None:
        norms = jax.jit(lambda: step_metrics(gradient, before, after, trainable))  # traced once, for both branches
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(norms))
        return jax.lax.cond(measured, norms, lambda: zeros)
    gradient, before, after = (trained_only(tree, trainable) for tree in (gradient, before, after))
    parts, places = trees.norm_parts(jax.tree.leaves(gradient))
    layers = trees.layers(jax.tree.unflatten(jax.tree.structure(gradient), places))
    rows = tuple(tuple(row for place in layer for row in place) for layer in layers.values())
    return {
        "gradient_norm": trees.joint_norm(parts),
        "update_ratio": trees.relative_change(before, after),
        LAYER_NORMS: LayerNorms(parts, tuple(layers), rows),
    }


def expand_layer_norms(row: dict[str, Any], kept: bool) -> dict[str, Any]:
    """The metrics of a step with "gradient_norm/<layer>" in place of `LAYER_NORMS`; without them, if not kept."""
    norms = row.pop(LAYER_NORMS, None)
    if norms is None or not kept:
        return row
    return {**row, **{LAYER_PREFIX + name: float(x) for name, x in zip(norms.names, norms.values, strict=True)}}
