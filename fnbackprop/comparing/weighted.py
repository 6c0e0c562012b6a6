"""Functions of any arguments and outputs as functions of one number, so that their gradient can be compared."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def weighted(fun: Callable, *, has_aux: bool = False, seed: int = 0) -> Callable:
    """`fun` with a scalar value: every output times a fixed Gaussian number of its own, added up.

    So each output's cotangent is another number, none of them 0 or 1, and no error cancels by symmetry. A function
    whose one output is a real scalar stays as it is. Integer outputs are left out.

    Args:
      fun: a function whose outputs are a pytree of arrays.
      has_aux: whether `fun` returns a pair of which the second is not differentiated.
      seed: of the numbers.
    Raises:
      TypeError: when called, if there is no floating output.
    """

    @functools.wraps(fun)
    def scalar(*args: Any) -> jax.Array:
        out = fun(*args)
        outputs = jax.tree.leaves(out[0] if has_aux else out)
        floating = [jnp.asarray(y) for y in outputs if jnp.issubdtype(jnp.result_type(y), jnp.inexact)]
        if not floating:
            raise TypeError(f"{getattr(fun, '__name__', fun)} has no floating output, so there is no gradient.")
        if len(outputs) == 1 and floating[0].shape == () and not jnp.iscomplexobj(floating[0]):
            return floating[0]
        generators = np.random.default_rng(seed).spawn(len(floating))
        terms = [_weighted_sum(y, random) for y, random in zip(floating, generators, strict=True)]
        widest = max((term.dtype for term in terms), key=lambda dtype: dtype.itemsize)
        return functools.reduce(jnp.add, (term.astype(widest) for term in terms))

    return scalar


def _weighted_sum(y: jax.Array, random: np.random.Generator) -> jax.Array:
    """In float32 at least: the sum of outputs in low precision is not rounded to it, which would hide their change."""
    weights = random.normal(size=y.shape)
    if jnp.iscomplexobj(y):
        weights = weights + 1j * random.normal(size=y.shape)
    y = y.astype("float32") if y.dtype.itemsize < 4 else y
    return jnp.sum(jnp.real(y * jnp.asarray(weights, y.dtype)))


def differentiable(args: Sequence[Any]) -> tuple[int, ...]:
    """The positions of the arguments that have a floating array among their leaves; without any, a floating number."""
    for is_meant in (_is_floating_array, lambda leaf: isinstance(leaf, float | complex)):
        found = tuple(i for i, arg in enumerate(args) if any(map(is_meant, jax.tree.leaves(arg))))
        if found:
            break
    else:
        raise TypeError("none of the arguments has a floating array or number: there is nothing to differentiate.")
    return found


def _is_floating_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jnp.inexact)
