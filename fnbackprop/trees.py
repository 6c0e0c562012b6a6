"""Pytrees of parameters and gradients: paths of leaves, and norms that can be trusted in every dtype.

What optax.tree already gives (add, scale, cast, vdot, ...) is not repeated here.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

STACKED = 4096  # elements: leaves of one shape that have no more are reduced together


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


def within(path: str, patterns: Iterable[str]) -> bool:
    """Whether the path, or that of a tree that holds it, has one of the patterns: see `matches`.

    >>> within("critic/0/w", ["critic"]), within("critic/0/w", ["critic/*"]), within("critic/0/w", ["actor"])
    (True, True, False)
    """
    parts = path.split("/")
    heads = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(matches(head, pattern) for head in heads for pattern in patterns)


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure as a single tree whose leaves have a new first axis, ready for `jax.lax.scan`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def conjugate(tree: Any) -> Any:
    """Between JAX's gradient of complex parameters and the direction in which the loss rises; real leaves stay."""
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf, tree)


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
    of leaves, and no leaf waits for another. Small leaves of one shape are reduced together, for a hundred reductions
    take a hundred times as long to compile as one.
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
    stacks, places = _stacked(leaves)
    lengths, group_places = _alike(map(len, groups))
    indices = [np.array([groups[i] for i in same], int) for same in lengths]  # of groups of one length: (count, length)

    def of_leaves(parts: list[jax.Array]) -> jax.Array:
        return jnp.concatenate([*parts, jnp.zeros((0,), dtype)])[places]

    # A second look at every leaf: a branch for the rare ones that need it takes longer, to run and to compile.
    scales = [_scale(_sums_of_squares(x, dtype)) for x in stacks]
    sums = of_leaves([_sums_of_squares(x, dtype, scale) for x, scale in zip(stacks, scales, strict=True)])
    norms = _root(sums) / of_leaves(scales)
    return jnp.concatenate([_joint_norms(norms[index]) for index in indices])[group_places]


def leaf_norms(tree: Any) -> Any:
    """The `global_norm` of each leaf alone: the same tree with a scalar in place of every leaf."""
    return jax.tree.map(global_norm, tree)


def relative_change(before: Any, after: Any) -> jax.Array:
    """|after - before| / |before|, Euclidean norms of all leaves together, where no square vanishes or overflows.

    For ordinary numbers: `global_norm` has no such limits, but keeps the leaves in memory for a second look at them.
    """
    pairs = [(x, y) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True) if _counts(x)]
    dtype = accumulation_dtype(*[x for x, _ in pairs])
    (old, _), (new, _) = (_stacked([pair[which] for pair in pairs]) for which in (0, 1))

    def norm(stacks: Iterable[jax.Array]) -> jax.Array:
        return jnp.sqrt(sum((jnp.sum(_sums_of_squares(x, dtype)) for x in stacks), start=jnp.zeros((), dtype)))

    return norm(y - x for x, y in zip(old, new, strict=True)) / norm(old)


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


def _alike(keys: Iterable[Hashable]) -> tuple[list[list[int]], np.ndarray]:
    """The places of equal keys together, and for each place where it is among them all, one after the other."""
    found: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return list(found.values()), np.argsort([place for places in found.values() for place in places]).astype(int)


def _stacked(leaves: Sequence[Any]) -> tuple[list[jax.Array], np.ndarray]:
    """Arrays (count, *shape): small leaves of one shape and dtype together, each larger one alone; and where each leaf
    is among their rows, one array after the other."""
    kinds = ((np.shape(x), jnp.result_type(x), None if np.size(x) <= STACKED else i) for i, x in enumerate(leaves))
    together, places = _alike(kinds)
    return [jnp.stack([leaves[i] for i in same]) for same in together], places


def _rows(array: jax.Array) -> tuple[int, ...]:
    """All axes but the first."""
    return tuple(range(1, array.ndim))


def _sums_of_squares(stack: jax.Array, dtype: jnp.dtype, scale: jax.Array | None = None) -> jax.Array:
    """Of each leaf of a stack, times a scale of its own if one is given: (count,)."""
    magnitude, rows = _magnitude(stack, dtype), _rows(stack)
    if scale is not None:
        magnitude = magnitude * jnp.expand_dims(scale, rows)
    return jnp.sum(jnp.square(magnitude), axis=rows)


def _in_range(squares: jax.Array) -> jax.Array:
    """Whether a sum of squares is exact: none that matters vanished, and none overflowed."""
    limits = jnp.finfo(squares.dtype)
    return (squares > limits.tiny / limits.eps**2) & (squares < jnp.inf)


def _scale(squares: jax.Array) -> jax.Array:
    """The power of two by which to multiply numbers whose sum of squares is out of range, so that it is in it.

    Source: J. Blue, A Portable Fortran Program to Find the Euclidean Norm of a Vector, 1978.
    """
    limits = jnp.finfo(squares.dtype)
    up = 2.0 ** (-limits.minexp // 2 + limits.nmant // 2)
    down = 2.0 ** -(limits.maxexp // 2 + limits.nmant // 2)
    scale = jnp.where(squares < jnp.inf, jnp.where(_in_range(squares), 1.0, up), down)
    return lax.stop_gradient(scale.astype(squares.dtype))


def _joint_norms(norms: jax.Array) -> jax.Array:
    """The norm of each group of leaves, (count,), from those of the leaves, (count, length)."""
    largest = lax.stop_gradient(jnp.max(norms, axis=1, initial=0, keepdims=True))
    largest = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
    return largest[:, 0] * _root(jnp.sum(jnp.square(norms / largest), axis=1))


def _root(squares: jax.Array) -> jax.Array:
    """The square root, whose derivative at zero is zero."""
    return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))
