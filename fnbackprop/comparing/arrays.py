"""Arrays in float64, and distances between them that neither overflow nor underflow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def to_float64(leaf: Any) -> np.ndarray:
    """The array in float64 or complex128; of float0, which has no value, zeros."""
    array = np.asarray(leaf)
    if array.dtype == jax.dtypes.float0:
        return np.zeros(array.shape)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def array_norm(array: Any) -> float:
    """The Euclidean norm, scaled by the largest element, so neither 1e-200 nor 1e200 is lost in its square."""
    array = to_float64(array)
    largest = float(np.max(np.abs(array), initial=0.0))
    return largest * float(np.linalg.norm((array / largest).ravel())) if 0 < largest < np.inf else largest


def quotient(numerator: float, denominator: float) -> float:
    """The quotient of two norms: 0 / 0 is 0, and anything else over 0 infinite."""
    if denominator == 0:
        return 0.0 if numerator == 0 else np.inf
    return numerator / denominator


def distance(found: Any, reference: Any) -> float:
    """The norm of the difference over the reference's norm; 0 for two zeros, inf beside a zero."""
    found, reference = to_float64(found), to_float64(reference)
    return quotient(array_norm(found - reference), array_norm(reference))


def relative_error(found: Any, reference: Any) -> float:
    """As `distance`; NaN if either array is not finite."""
    if not (np.isfinite(to_float64(found)).all() and np.isfinite(to_float64(reference)).all()):
        return np.nan
    return distance(found, reference)


def is_finite(leaf: Any) -> bool:
    """Whether no element is NaN or infinite; an integer's gradient, which has no value, is."""
    return not is_floating(leaf) or bool(np.isfinite(to_float64(leaf)).all())


def is_floating(leaf: Any) -> bool:
    """Whether a leaf, an array or a Python number, is real or complex floating."""
    return jax.dtypes.issubdtype(jax.dtypes.result_type(leaf), jnp.inexact)


def map_floating(function: Callable, tree: Any, seed: int, otherwise: Callable = lambda leaf: leaf) -> Any:
    """`function(leaf, random)` for every floating leaf, as a numpy array beside a random generator of its own.

    numpy's generators compile nothing and give the same numbers on every device.
    """
    leaves, structure = jax.tree.flatten(tree)
    generators = np.random.default_rng(seed).spawn(len(leaves))
    parts = [
        function(np.asarray(leaf), random) if is_floating(leaf) else otherwise(leaf)
        for leaf, random in zip(leaves, generators, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)
