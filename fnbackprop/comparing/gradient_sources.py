"""Who says what a gradient is: the manual backward (ours), the automatic one (JAX's), and differences of the function.

This is the one place that asks JAX for a gradient, as the thing compared with.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.transforms import value_and_grad
from fnbackprop.jaxprs.compat import quick_compilation

from .program import Program

BACKWARDS: dict[str, Callable] = {"manual": value_and_grad, "automatic": jax.value_and_grad}


def value_and_grad_by(backward: str) -> Callable:
    """`value_and_grad` by the "manual" or the "automatic" backward; both have the same signature."""
    if backward not in BACKWARDS:
        raise ValueError(f"backward must be one of {', '.join(map(repr, BACKWARDS))}, not {backward!r}.")
    return BACKWARDS[backward]


def gradient_function(program: Program, backward: str) -> Callable:
    """The compiled `(inputs, others, cotangent) -> (value, gradients)`, a gradient for each of the program's inputs.

    The value, and so the gradients, are multiplied by the cotangent; at 1 they are what they are.
    """

    def scaled(inputs, others, cotangent):
        value = program.function(inputs, others)
        return value * jnp.asarray(cotangent).astype(value.dtype)

    function = value_and_grad_by(backward)(scaled, allow_int=True)
    return jax.jit(function, compiler_options=quick_compilation())


def shaken(tree: Any, seed: int, size: float) -> Any:
    """The tree with every floating number x changed to x (1 + size) or x (1 - size), at random."""

    def shake(leaf: np.ndarray, random: np.random.Generator) -> np.ndarray:
        step = max(size, float(jnp.finfo(leaf.dtype).eps))  # less than that would be rounded away
        return leaf + leaf * (step * random.choice((-1, 1), leaf.shape)).astype(leaf.dtype)

    return map_inexact(shake, tree, seed)


def map_inexact(function: Callable, tree: Any, seed: int, otherwise: Callable = lambda leaf: leaf) -> Any:
    """`function(leaf, random)` for every floating leaf, as a numpy array beside a random generator of its own.

    numpy's generators compile nothing and give the same numbers on every device.
    """
    leaves, structure = jax.tree.flatten(tree)
    generators = np.random.default_rng(seed).spawn(len(leaves))
    parts = [
        function(np.asarray(leaf), random) if is_inexact(leaf) else otherwise(leaf)
        for leaf, random in zip(leaves, generators, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is real or complex floating."""
    return jax.dtypes.issubdtype(jax.dtypes.result_type(leaf), jnp.inexact)
