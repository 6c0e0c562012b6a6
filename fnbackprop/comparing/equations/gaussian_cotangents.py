"""Gaussian cotangents, beside the one that reaches an equation in its program."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


def _phases_held(gaussian: Any, ct: Any) -> Any:
    """Of complex vectors, whose phases are open, the cotangent of the program: it may be known not to ask for them."""
    return ct if jnp.iscomplexobj(ct) else gaussian


# The part of an output that a primitive promises, from a Gaussian cotangent and the one of the program.
DEFINED: dict[str, Callable] = {
    "cholesky": lambda gaussian, _: jnp.tril(gaussian),
    "eigh": _phases_held,
    "svd": _phases_held,
}


class GaussianCotangents:
    """Draws Gaussian cotangents from a pool of numbers that is used again and again."""

    SIZE = 1 << 20

    def __init__(self, seed: int = 0):
        self.random = np.random.default_rng(seed)
        self.pool = self.random.standard_normal(self.SIZE, np.float32)

    def __call__(self, cts: Sequence[Any], primitive: str = "") -> list[Any]:
        """One like each of these, of the outputs of a primitive, as far as it defines them."""
        defined = DEFINED.get(primitive, lambda gaussian, _: gaussian)
        return [defined(self._like(ct), ct) for ct in cts]

    def _like(self, ct: Any) -> Any:
        start = int(self.random.integers(self.SIZE))
        pool = self.pool[: max(ct.size, 1)] if ct.size < self.SIZE else self.pool
        numbers = np.resize(np.roll(pool, start), ct.shape)
        if jnp.iscomplexobj(ct):
            numbers = numbers + 1j * numbers[..., ::-1] if numbers.ndim else numbers * (1 + 0.7j)
        return jnp.asarray(numbers, ct.dtype)
