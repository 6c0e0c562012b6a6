"""One program of a library's user, at operands that are drawn anew for each comparison."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Draw = Callable[[np.random.Generator], Any]


class LibraryProgram(NamedTuple):
    """A function of a library at drawn operands.

    Attributes:
      name: "library.function". function: of the operands. operands: how each is drawn, a pytree of numpy arrays.
      every: it takes part in one round of so many, because it takes long to trace.
      bfloat16: whether it is run in that too: not a solver whose tolerance lies below its resolution.
    """

    name: str
    function: Callable
    operands: tuple[Draw, ...]
    every: int = 1
    bfloat16: bool = True


def program(name: str, function: Callable, *operands: Draw, every: int = 1, bfloat16: bool = True) -> LibraryProgram:
    return LibraryProgram(name, function, operands, every, bfloat16)


def real(*shape: int, low: float = -2.0, high: float = 2.0) -> Draw:
    return lambda rng: rng.uniform(low, high, shape)


def positive(*shape: int) -> Draw:
    return real(*shape, low=0.2, high=3.0)


def unit(*shape: int) -> Draw:
    """Probabilities, away from 0 and 1."""
    return real(*shape, low=0.05, high=0.95)


def whole(below: int, *shape: int) -> Draw:
    return lambda rng: rng.integers(0, below, shape).astype(np.int32)


def simplex(*shape: int) -> Draw:
    """Positive numbers whose sum over the last axis is 1."""
    return lambda rng: rng.dirichlet(np.full(shape[-1], 2.0), shape[:-1])


def definite(n: int) -> Draw:
    """A symmetric matrix with eigenvalues from 1 to about 3."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        root = rng.normal(size=(n, n))
        return np.eye(n) + root @ root.T / n

    return draw


def each(**draws: Draw) -> Draw:
    return lambda rng: {name: draw(rng) for name, draw in draws.items()}


def like(tree: Any, scale: float = 0.5) -> Draw:
    """Normal numbers in the place of each array: the parameters of a model."""
    leaves, structure = jax.tree.flatten(tree)
    return lambda rng: structure.unflatten([scale * rng.normal(size=leaf.shape) for leaf in leaves])
