"""Layers: how fast each of them moves, which of them is sharp, and what would even them out."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fnbackprop import trees
from fnbackprop.extras import needed_for

from .facts import LayerFacts

with needed_for("fb.balance"):
    import optax

FURTHEST = 100.0  # a multiplier is no further from 1


def layer_facts(params: Any, updates: Any, sharpest: Any | None = None) -> tuple[LayerFacts, ...]:
    """Each layer's part in a step.

    Args:
      params, updates: of the step: trees of one structure.
      sharpest: the unit vector along which the curvature is largest; None if it is not known.
    """
    weights, moved = (_norms(tree) for tree in (params, updates))
    ratios = {name: moved[name] / weights[name] if weights[name] > 0 else np.nan for name in weights}
    usable = [ratio for ratio in ratios.values() if 0 < ratio < np.inf]
    middle = float(np.exp(np.mean(np.log(usable)))) if usable else np.nan
    shares = {} if sharpest is None else {name: norm**2 for name, norm in _norms(sharpest).items()}

    def multiplier(ratio: float) -> float | None:
        return float(np.clip(middle / ratio, 1 / FURTHEST, FURTHEST)) if 0 < ratio < np.inf else None

    return tuple(LayerFacts(name, ratio, shares.get(name), multiplier(ratio)) for name, ratio in ratios.items())


def _norms(tree: Any) -> dict[str, float]:
    layers = trees.layers(tree)
    return dict(zip(layers, np.asarray(trees.norms(list(layers.values())), float).tolist(), strict=True))


def scale_by_layer(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """An optax transformation that multiplies the updates of each layer: the last of a chain, to change its rates.

    Args:
      multipliers: by the layers' paths, as `Balance.multipliers` has them: "blocks/0/qkv", or a pattern of the end of
        one, "blocks/*/qkv", or the whole path of a leaf. What matches none is left alone; what matches several takes
        the first.

    Returns:
      The transformation, an `optax.GradientTransformation` without state.
    Raises:
      ValueError: when it is initialised, for a pattern that matches no parameter.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax
      >>> optimizer = optax.chain(optax.sgd(0.1), fb.scale_by_layer({"up": 2.0}))
      >>> params = {"up": {"w": jnp.ones(2)}, "down": {"w": jnp.ones(2)}}
      >>> updates, _ = optimizer.update(params, optimizer.init(params))
      >>> print(updates["up"]["w"], updates["down"]["w"])
      [-0.2 -0.2] [-0.1 -0.1]
    """

    def factor(path: str) -> float:
        found = (value for name, value in multipliers.items() if _is_meant(path, name))
        return float(next(found, 1.0))

    def init(params: Any) -> optax.EmptyState:
        paths = [path for path, _ in trees.leaves_with_paths(params)]
        for name in multipliers:
            if not any(_is_meant(path, name) for path in paths):
                raise ValueError(
                    f"scale_by_layer: no layer matches {name!r}; they are {', '.join(trees.layers(params))}."
                )
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scaled = trees.map_with_paths(lambda path, leaf: leaf * jax.numpy.asarray(factor(path), leaf.dtype), updates)
        return scaled, state

    return optax.GradientTransformation(init, update)


def _is_meant(path: str, name: str) -> bool:
    """Whether a name is that of a leaf, or matches the path of its layer."""
    return path == name or trees.matches(path.rpartition("/")[0] or path, name)
