"""Pytrees of parameters and gradients: paths of leaves, and norms that can be trusted in every dtype.

What optax.tree already gives (add, scale, cast, vdot, ...) is not repeated here.
"""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def leaf_path(keys: jax.tree_util.KeyPath) -> str:
    """The path of a leaf as one string: dict keys, list indices and attributes, joined by "/".

    >>> from jax.tree_util import tree_leaves_with_path
    >>> [leaf_path(keys) for keys, _ in tree_leaves_with_path({"blocks": [{"w": 1.0}, {"w": 2.0}]})]
    ['blocks/0/w', 'blocks/1/w']

    A tree that is a single leaf has the path "".
    """
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def leaves_with_paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[str, Any]]:
    """Every leaf with its path, in the order of `jax.tree.leaves`."""
    return [(leaf_path(keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)]


def map_with_paths(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` with the path first: each leaf becomes `function(path, leaf, *leaves_of_rest)`.

    >>> map_with_paths(lambda path, leaf: path.endswith("w"), {"w": 1.0, "b": 2.0})
    {'b': False, 'w': True}
    """
    return jax.tree_util.tree_map_with_path(lambda keys, *leaves: function(leaf_path(keys), *leaves), tree, *rest)


# The end of the path of an array in a box of Flax: of NNX's variables, of linen's partitioned parameters.
BOX = "/value"


def matches(path: str, pattern: str) -> bool:
    """Whether the end of a path has the pattern: one or more components, in which * and ? are wildcards.

    An array in a box of Flax has the path of its box.

    >>> matches("blocks/0/norm1/scale", "norm*/scale"), matches("blocks/0/up/b", "b"), matches("blob", "b")
    (True, True, False)
    >>> matches("norm/bias/value", "bias")
    True
    """
    return any(PurePosixPath(name).match(pattern) for name in {path, path.removesuffix(BOX)})


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure as a single tree whose leaves have a new first axis, ready for `jax.lax.scan`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def accumulation_dtype(*arrays: jax.typing.ArrayLike) -> jnp.dtype:
    """The real dtype in which to add these arrays up: float64 if any of them is 64-bit floating, else float32."""
    wide = any(jnp.result_type(x) in (jnp.float64, jnp.complex128) for x in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def sum_dtype(array: jax.typing.ArrayLike) -> jnp.dtype:
    """The dtype of a sum of such arrays: `accumulation_dtype`, or the complex dtype of that precision."""
    real = accumulation_dtype(array)
    complex_of = {jnp.dtype(jnp.float32): jnp.dtype(jnp.complex64), jnp.dtype(jnp.float64): jnp.dtype(jnp.complex128)}
    return complex_of[real] if jnp.issubdtype(jnp.result_type(array), jnp.complexfloating) else real


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves together, a scalar in float32 (float64 if a leaf is 64-bit floating).

    True where the squares would vanish or overflow as well: gradients of 1e-30 or 1e30, or of 1e4 in float16, do
    not have the norm 0 or inf. `float0` leaves (the gradients of integers) count as zero, and an empty tree has
    norm 0. A leaf with NaN gives NaN; with inf, inf.
    """
    return norms([tree])[0]


def norms(trees: Sequence[Any]) -> jax.Array:
    """The `global_norm` of each of several trees, all in one dtype: (trees,). A leaf may be in several of them.

    The squares of a leaf are added up by itself, and the sums of leaves afterwards: the program grows with the number
    of leaves, and no leaf waits for another.
    """
    if not trees:
        return jnp.zeros((0,))
    leaves: dict[int, Any] = {}
    groups = [[leaves.setdefault(id(x), x) for x in jax.tree.leaves(tree) if _counts(x)] for tree in trees]
    places = {key: place for place, key in enumerate(leaves)}
    groups = [[places[id(x)] for x in group] for group in groups]
    return _group_norms(list(leaves.values()), groups)


def _group_norms(leaves: Sequence[Any], groups: Sequence[Sequence[int]]) -> jax.Array:
    """The norm of each group of these leaves."""
    dtype = accumulation_dtype(*leaves)
    squares = [_sum_of_squares(x, dtype) for x in leaves]
    totals = jnp.stack([sum((squares[i] for i in group), start=jnp.zeros((), dtype)) for group in groups])
    limits = jnp.finfo(dtype)
    in_range = jnp.all((totals > limits.tiny / limits.eps**2) & (totals < jnp.inf))

    def scaled() -> jax.Array:
        each = [_scaled_squares(x, dtype) for x in leaves]
        return jnp.stack([_scaled_norm([each[i] for i in group], dtype) for group in groups])

    return lax.cond(in_range, lambda: jnp.sqrt(totals), scaled)


def leaf_norms(tree: Any) -> Any:
    """The `global_norm` of each leaf alone: the same tree with a scalar in place of every leaf."""
    return jax.tree.map(global_norm, tree)


def plain_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves together where the squares neither vanish nor overflow: for ordinary numbers.

    `global_norm` has no such limits, but keeps the leaves in memory for a second look at them.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if _counts(leaf)]
    dtype = accumulation_dtype(*leaves)
    return jnp.sqrt(sum((_sum_of_squares(x, dtype) for x in leaves), start=jnp.zeros((), dtype)))


def layers(tree: Any) -> dict[str, list[Any]]:
    """The leaves of each layer, by its path: those whose paths differ only in their last part.

    >>> layers({"blocks": [{"w": 1.0, "b": 2.0}, {"w": 3.0}], "scale": 4.0})
    {'blocks/0': [2.0, 1.0], 'blocks/1': [3.0], 'scale': [4.0]}
    """
    found: dict[str, list[Any]] = {}
    for path, leaf in leaves_with_paths(tree):
        found.setdefault(path.rpartition("/")[0] or path, []).append(leaf)
    return found


def _counts(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) != jax.dtypes.float0


def _magnitude(leaf: jax.typing.ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """The absolute values; cast first where that widens (the most negative integer has no absolute value)."""
    leaf = jnp.asarray(leaf)
    return jnp.abs(leaf).astype(dtype) if jnp.iscomplexobj(leaf) else jnp.abs(leaf.astype(dtype))


def _sum_of_squares(leaf: jax.typing.ArrayLike, dtype: jnp.dtype) -> jax.Array:
    return jnp.sum(jnp.square(_magnitude(leaf, dtype)))


def _scaled_squares(leaf: jax.typing.ArrayLike, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """(largest magnitude, sum of the squares of what it divides): a second pass, that only extreme leaves need."""
    magnitude = _magnitude(leaf, dtype)
    largest = lax.stop_gradient(jnp.max(magnitude, initial=0))
    return largest, jnp.sum(jnp.square(magnitude / _divisor(largest)))


def _scaled_norm(parts: Sequence[tuple[jax.Array, jax.Array]], dtype: jnp.dtype) -> jax.Array:
    """The norm of leaves of which `_scaled_squares` are given."""
    if not parts:
        return jnp.zeros((), dtype)
    largest, squares = (jnp.stack(values) for values in zip(*parts, strict=True))
    scale = _divisor(jnp.max(largest))
    shares = jnp.where(largest == 0, 0, _divisor(largest) / scale)
    return scale * jnp.sqrt(jnp.sum(squares * jnp.square(shares)))


def _divisor(largest: jax.Array) -> jax.Array:
    """The largest magnitude where one can divide by it, else 1."""
    return jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
