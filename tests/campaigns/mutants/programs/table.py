"""The table of programs, by primitive."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.experimental.sparse.linalg  # its primitives exist from here on, as do those of
import jax.experimental.xla_metadata
import jax.numpy as jnp
import numpy as np
from jax import lax

from .operands import normal


@dataclass(frozen=True, eq=False)
class Program:
    """A function that uses a primitive, and its operands; all floating operands are differentiated."""

    primitive: str
    number: int
    function: Callable
    operands: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.primitive}#{self.number}"

    @property
    def argnums(self) -> tuple[int, ...]:
        return tuple(i for i, x in enumerate(self.operands) if jnp.issubdtype(jnp.result_type(x), np.inexact))

    def loss(self, *operands: Any) -> jax.Array:
        """The outputs times fixed Gaussian weights, summed up: a scalar that weighs each of them differently."""
        leaves = [y for y in jax.tree.leaves(self.function(*operands)) if jnp.issubdtype(y.dtype, np.inexact)]
        weights = [normal(*y.shape, dtype=y.dtype, seed=90 + i) for i, y in enumerate(leaves)]
        terms = [jnp.sum(jnp.real(y * w)).astype("float32") for y, w in zip(leaves, weights, strict=True)]
        return sum(terms[1:], terms[0])


def all_primitives() -> set[Any]:
    """Every primitive of the installed JAX that is loaded. It imports nothing of fnbackprop: see ../../jaxprs."""
    return {x for x in gc.get_objects() if isinstance(x, type(lax.sin_p))}


EXISTING = {primitive.name for primitive in all_primitives()} | {"name", "jit"}
PROGRAMS: dict[str, list[Program]] = {}


def add(primitives: str, function: Callable, *operands: Any) -> None:
    """A program for each of the primitives named that this JAX has."""
    for primitive in primitives.split():
        if primitive in EXISTING:
            known = PROGRAMS.setdefault(primitive, [])
            known.append(Program(primitive, len(known), function, tuple(map(jnp.asarray, operands))))


def bind(name: str, **params: Any) -> Callable:
    """A primitive that has no public function."""
    return lambda *xs: next(p for p in all_primitives() if p.name == name).bind(*xs, **params)


def of(name: str) -> Callable:
    return getattr(lax, name)
