"""Gaussian cotangents, beside the one that reaches an equation in its program."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

DEFINED: dict[str, Callable] = {"cholesky": jnp.tril}  # the part of an output that a primitive promises


class GaussianCotangents:
    """Draws Gaussian cotangents from a pool of numbers that is used again and again."""

    SIZE = 1 << 20

    def __init__(self, seed: int = 0):
        self.random = np.random.default_rng(seed)
        self.pool = self.random.standard_normal(self.SIZE, np.float32)

    def __call__(self, cts: Sequence[Any], primitive: str = "") -> list[Any]:
        """One like each of these, of the outputs of a primitive: zero where it leaves them undefined."""
        defined = DEFINED.get(primitive, lambda ct: ct)
        return [defined(self._like(ct)) for ct in cts]

    def _like(self, ct: Any) -> Any:
        start = int(self.random.integers(self.SIZE))
        pool = self.pool[: max(ct.size, 1)] if ct.size < self.SIZE else self.pool
        numbers = np.resize(np.roll(pool, start), ct.shape)
        if jnp.iscomplexobj(ct):
            numbers = numbers + 1j * numbers[..., ::-1] if numbers.ndim else numbers * (1 + 0.7j)
        return jnp.asarray(numbers, ct.dtype)
