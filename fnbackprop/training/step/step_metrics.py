"""What a compiled step says about its gradient and its size, beside the loss."""

from typing import Any

import jax

from fnbackprop import trees

LAYER_NORMS = "layer_gradient_norms"  # an array, one number for each of `layer_names`
PREFIX = "gradient_norm/"


def measure(gradient: Any, before: Any, after: Any) -> dict[str, jax.Array]:
    """The gradient's norm, as a whole and for each layer, and how far the parameters went for their size.

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


def spread(record: dict[str, Any], names: list[str], kept: bool) -> dict[str, Any]:
    """A step's record with a number "gradient_norm/<layer>" for each layer, or without them if they are not kept."""
    values = record.pop(LAYER_NORMS, ())
    return {**record, **{PREFIX + name: value for name, value in zip(names, values, strict=False)}} if kept else record
