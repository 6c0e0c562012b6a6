"""Low-rank adapters: what is learned about a matrix is a product of two thin ones, and the matrix itself stays.

    adapters = fb.lora.init(key, base, rank=8, where="qkv/w")
    merged = fb.lora.merge(base, adapters)        # the parameters to compute with, and to hand on

Both are pure functions of pytrees. In an experiment, `init` returns `{"base": base, "lora": adapters}`, the loss
computes with `merge(params["base"], params["lora"])`, and `trainable="lora"` freezes the rest: no gradient of the base
is kept, and the optimizer has moments of the adapters alone.

Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, section 4.1.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop import trees

ALPHA = 16.0

Adapters = dict[str, dict[str, jax.Array]]
"""The path of each matrix (..., rows, columns) -> its "a" (..., rows, rank) and its "b" (..., rank, columns)."""


def init(key: jax.Array, params: Any, *, rank: int, where: str | Sequence[str]) -> Adapters:
    """Adapters of the matrices within `where`; merged, they change nothing yet.

    Args:
      key: of their values: a is normal with the variance 1 / rows, b is zero.
      params: the parameters to be adapted. A leaf with more than two axes is a stack of matrices, each with its own.
      rank: the number of columns of a and rows of b; at most the smaller side of each matrix.
      where: patterns of the paths of the matrices, with everything below them: "qkv/w", "blocks", or several. Leaves
        of fewer than two axes are passed over.

    Returns:
      By the path of each matrix, {"a": (..., rows, rank), "b": (..., rank, columns)} of its dtype.
    Raises:
      ValueError: a pattern names no matrix, or the rank is not between 1 and the smaller side of each.

    Example:
      >>> import fnbackprop as fb, jax, jax.numpy as jnp
      >>> base = {"up": {"w": jnp.ones((4, 6)), "b": jnp.zeros(6)}, "head": {"w": jnp.ones((6, 2))}}
      >>> adapters = fb.lora.init(jax.random.key(0), base, rank=2, where="up")
      >>> {path: {name: x.shape for name, x in pair.items()} for path, pair in adapters.items()}
      {'up/w': {'a': (4, 2), 'b': (2, 6)}}
      >>> bool((fb.lora.merge(base, adapters)["up"]["w"] == 1).all())
      True
    """
    patterns = [where] if isinstance(where, str) else list(where)
    matrices = {path: leaf for path, leaf in trees.leaves_with_paths(params) if jnp.ndim(leaf) >= 2}
    for pattern in patterns:
        if not any(trees.within(path, [pattern]) for path in matrices):
            raise ValueError(f"lora: no matrix is within {pattern!r}; they are {', '.join(matrices)}.")

    def pair(path: str, leaf: jax.Array) -> dict[str, jax.Array]:
        *stack, rows, columns = leaf.shape
        if not 1 <= rank <= min(rows, columns):
            raise ValueError(f"lora: the rank must be between 1 and {min(rows, columns)} for {path}, not {rank}.")
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))  # whatever the other matrices are
        a = jax.random.normal(own, (*stack, rows, rank), leaf.dtype) * (1 / math.sqrt(rows))
        return {"a": a, "b": jnp.zeros((*stack, rank, columns), leaf.dtype)}

    return {path: pair(path, leaf) for path, leaf in matrices.items() if trees.within(path, patterns)}


def merge(params: Any, adapters: Adapters, *, alpha: float = ALPHA) -> Any:
    """The parameters with w + (alpha / rank) a b in the place of each matrix that has an adapter.

    Args:
      params: as `init` had them.
      adapters: those of `init`, or what they became in training.
      alpha: the factor of the change, over the rank; where it is kept, another rank needs no other learning rate.

    Returns:
      A tree like `params`, of the same shapes and dtypes.
    Raises:
      ValueError: there is no parameter of an adapter's path.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp
      >>> adapters = {"w": {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 2))}}
      >>> print(fb.lora.merge({"w": jnp.zeros((2, 2))}, adapters, alpha=0.5)["w"])
      [[0.5 0.5]
       [0.5 0.5]]
    """
    missing = set(adapters) - {path for path, _ in trees.leaves_with_paths(params)}
    if missing:
        raise ValueError(f"lora: the parameters have no {', '.join(sorted(missing))}, which an adapter is of.")

    def merged(path: str, leaf: jax.Array) -> jax.Array:
        if path not in adapters:
            return leaf
        a, b = adapters[path]["a"], adapters[path]["b"]
        return leaf + (a @ b * (alpha / a.shape[-1])).astype(leaf.dtype)

    return trees.map_with_paths(merged, params)
