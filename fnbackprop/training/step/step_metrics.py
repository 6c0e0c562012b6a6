"""The metrics that every step has besides its loss: norms of the gradient and of the update."""

from typing import Any

import jax

from fnbackprop import trees

LAYER_NORMS = "layer_gradient_norms"  # an array, one number for each of `layer_names`
LAYER_PREFIX = "gradient_norm/"


def step_metrics(gradient: Any, before: Any, after: Any) -> dict[str, jax.Array]:
    """The gradient's norm, in all and for each layer, and the size of the update relative to the parameters.

    Args:
      gradient: of the parameters.
      before, after: the parameters before and after the update.

    Returns:
      "gradient_norm", a scalar; "update_ratio", the scalar |after - before| / |before|; `LAYER_NORMS`, (layers,).
    """
    update = jax.tree.map(jax.numpy.subtract, after, before)
    return {
        "gradient_norm": trees.global_norm(gradient),
        "update_ratio": trees.plain_norm(update) / trees.plain_norm(before),
        LAYER_NORMS: trees.norms(list(trees.layers(gradient).values())),
    }


def layer_names(params: Any) -> list[str]:
    """The names of the layers, for the numbers of `LAYER_NORMS`."""
    return list(trees.layers(params))


def expand_layer_norms(row: dict[str, Any], names: list[str], kept: bool) -> dict[str, Any]:
    """The metrics of a step with "gradient_norm/<layer>" in place of the array `LAYER_NORMS`; without, if not kept."""
    values = row.pop(LAYER_NORMS, ())
    return {**row, **{LAYER_PREFIX + name: value for name, value in zip(names, values, strict=False)}} if kept else row
