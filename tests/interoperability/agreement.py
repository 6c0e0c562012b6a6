"""`fb.vjp` against `jax.vjp` on a table of programs, compiled together; a failure names the program and the leaf."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import fnbackprop as fb

from ..rules.checking import assert_close, random_cotangent

TOLERANCE = 1e-11
# A program is a function and its operands, each a pytree of floating arrays; what is not floating is closed over.
Program = tuple[Callable, tuple]


def check_agreement(programs: dict[str, Program], tolerance: float = TOLERANCE) -> None:
    """Values and pullbacks of random cotangents, leaf by leaf, under one `jax.jit` for the whole table."""
    operands = {name: args for name, (_, args) in programs.items()}

    @jax.jit
    def pulled(operands):
        return [
            {name: _pull(name, transform, fun, operands[name]) for name, (fun, _) in programs.items()}
            for transform in (fb.vjp, jax.vjp)
        ]

    got, want = pulled(operands)
    _require_gradients(want)
    assert_close(got, want, tolerance)


def _pull(name: str, transform: Callable, fun: Callable, args: tuple) -> Any:
    try:
        value, pullback = transform(fun, *args)
        return {"value": value, "gradient": pullback(random_cotangent(value))}
    except Exception as error:
        error.add_note(f"in {name}, by {transform.__module__}")
        raise


def _require_gradients(pulled: dict) -> None:
    """Each program has a gradient that is finite and not all zero, or the comparison says nothing."""
    for name, both in pulled.items():
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(both["gradient"])]
        assert all(np.isfinite(leaf).all() for leaf in leaves), f"{name}: not finite by jax.vjp: {both}"
        assert any(leaf.any() for leaf in leaves), f"{name}: all zero by jax.vjp"


def draw(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Uniform numbers; the same ones for the same arguments."""
    return np.random.default_rng(sum(shape) + 1).uniform(low, high, shape)


def drawn_like(tree: Any, scale: float = 0.5) -> Any:
    """A tree of arrays or shapes as float64 normals: parameters without running an initialiser."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(0)
    return structure.unflatten([scale * rng.normal(size=leaf.shape) for leaf in leaves])
