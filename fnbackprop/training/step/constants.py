"""The first state of an optimizer is zeros, mostly: they are handed to the device, where each shape of them would be a
program to compile."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.graph import producers
from fnbackprop.jaxprs.types import Literal

HANDED_OVER = 1 << 24  # elements: the device fills a larger array sooner than it is copied there


def from_constants(function: Callable[[Any], Any], params: Any) -> Any:
    """What `function(params)` returns.

    If its trace shows that every result is one number, broadcast, or one of the parameters, nothing is computed.

    Args:
      function: pure.
      params: of arrays.
    """
    leaves = jax.tree.leaves(params)
    if any(isinstance(leaf, jax.core.Tracer) or getattr(leaf, "committed", False) for leaf in leaves):
        return function(params)  # results lie where the parameters are
    try:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(params)
    except Exception:  # it needs numbers, or is broken
        return function(params)
    made, given = producers(traced.jaxpr.eqns), dict(zip(traced.jaxpr.invars, leaves, strict=True))
    results = [_result(atom, made, given) for atom in traced.jaxpr.outvars]
    if any(result is None for result in results):
        return function(params)
    return jax.tree.unflatten(jax.tree.structure(shapes), [result() for result in results])


def _result(atom: Any, made: dict[Any, Any], given: dict[Any, Any]) -> Callable[[], Any] | None:
    """How to make a result without a program; None if it takes one."""
    if not isinstance(atom, Literal) and atom in given:
        return lambda: given[atom]
    number = atom
    if not isinstance(atom, Literal) and atom in made and made[atom].primitive.name == "broadcast_in_dim":
        number = made[atom].invars[0]
    if not isinstance(number, Literal) or np.ndim(number.val):
        return None
    fill = np.full if math.prod(atom.aval.shape) <= HANDED_OVER else jnp.full
    return lambda: fill(atom.aval.shape, number.val, atom.aval.dtype)
