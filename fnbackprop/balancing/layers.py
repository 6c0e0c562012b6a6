"""Layers: how fast each of them moves, which of them is sharp, and what would even them out."""

import dataclasses
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
SMALL = 1e-3  # a gradient that no clipping meets


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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ScaleByLayerState:
    """The state of `scale_by_layer`: no arrays, but the factors (pattern, multiplier), by which it is found."""

    multipliers: tuple[tuple[str, float], ...]


def scale_by_layer(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """An optax transformation that multiplies the updates of each layer: the last of a chain, to change its rates.

    Before Adam, Lion and whatever else divides a gradient by its own size, it would change nothing; `fb.train` then
    refuses it.

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

    def init(params: Any) -> Any:
        paths = [path for path, _ in trees.leaves_with_paths(params)]
        for name in multipliers:
            if not any(_is_meant(path, name) for path in paths):
                raise ValueError(
                    f"scale_by_layer: no layer matches {name!r}; they are {', '.join(trees.layers(params))}."
                )
        return ScaleByLayerState(tuple((name, float(value)) for name, value in multipliers.items()))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scaled(path: str, leaf: Any) -> Any:
            factor = next((value for name, value in state.multipliers if _is_meant(path, name)), 1.0)
            return leaf * jax.numpy.asarray(factor, leaf.dtype)

        return trees.map_with_paths(scaled, updates), state

    return optax.GradientTransformation(init, update)


def undoes_scales(optimizer: optax.GradientTransformation, params: Any, opt_state: Any) -> bool:
    """Whether what follows `scale_by_layer` in a chain divides its factors out again.

    Two updates are made of arrays of one element each, with the factors and without them: the second must differ.

    Args:
      optimizer: there may be no `scale_by_layer` in it.
      params: which it updates.
      opt_state: its state.
    """
    scales = filter(_is_scale, jax.tree.leaves(opt_state, is_leaf=_is_scale))
    if all(factor == 1 for scale in scales for _, factor in scale.multipliers):
        return False
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        small = jax.tree.map(lambda leaf: jax.numpy.ones((1,) * leaf.ndim, leaf.dtype), params)
        state = optimizer.init(small)
        plain = jax.tree.map(_without_factors, state, is_leaf=_is_scale)
        gradient = jax.tree.map(lambda leaf: SMALL * leaf, small)
        found = [_second_update(optimizer, gradient, begun, small) for begun in (state, plain)]
    with_factors, without = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)]) for x in found)
    return bool(np.any(without)) and np.allclose(with_factors, without, rtol=1e-3, atol=0)


def _second_update(optimizer: optax.GradientTransformation, gradient: Any, state: Any, params: Any) -> Any:
    """The first is often zero: that of a warmup."""
    _, state = optimizer.update(gradient, state, params)
    return optimizer.update(gradient, state, params)[0]


def _is_scale(node: Any) -> bool:
    return isinstance(node, ScaleByLayerState)


def _without_factors(node: Any) -> Any:
    return ScaleByLayerState(()) if _is_scale(node) else node


def _is_meant(path: str, name: str) -> bool:
    """Whether a name is that of a leaf, or matches the path of its layer."""
    return path == name or trees.matches(path.rpartition("/")[0] or path, name)
