"""The tiles of attention: which are visited, how they are cut out of the operands, and what a query may see in one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .tiling import even_size, may_be_divided

SIDE = 128  # queries and keys of a tile
ROWS = 256  # queries times sequences times heads of a tile: with SIDE keys, 128 KiB of scores, kept in a core's cache


class Visible(NamedTuple):
    """Which keys a query may see, by its position: up to `left` before it and `right` after it; None: all."""

    left: int | None
    right: int | None

    @classmethod
    def of(cls, causal: bool, window: tuple[int | None, int | None] | None) -> "Visible":
        left, right = window or (None, None)
        return cls(left, 0 if causal else right)

    def mask(self, queries: Any, keys: Any) -> Any:
        """For positions that are broadcast against each other; None where all are visible."""
        conditions = []
        if self.right is not None:
            conditions.append(lax.le(keys, queries + self.right))
        if self.left is not None:
            conditions.append(lax.ge(keys, queries - self.left))
        return conditions[0] if len(conditions) == 1 else lax.bitwise_and(*conditions) if conditions else None

    def meets(self, queries: range, keys: range) -> bool:
        """Whether any of these queries may see any of these keys."""
        after = self.right is not None and keys[0] > queries[-1] + self.right
        before = self.left is not None and keys[-1] < queries[0] - self.left
        return not (after or before)


class Tiling(NamedTuple):
    """How (batch, kv heads, queries, keys) is cut.

    shape: of a tile. padded: of the whole. steps: (count, 4), where the tiles that are visited begin.
    """

    shape: tuple[int, int, int, int]
    padded: tuple[int, int, int, int]
    steps: np.ndarray

    @classmethod
    def of(cls, q: Any, k: Any, visible: Visible, dropout: float) -> "Tiling":
        (batch, heads, group, queries, _), keys = q.shape, k.shape[2]
        tile_q, tile_k = even_size(queries, SIDE), even_size(keys, SIDE)
        most = max(ROWS // max(group * tile_q, 1), 1)
        tile_h = _divisor(heads, most)
        tile_b = _divisor(batch, max(most // tile_h, 1))
        if may_be_divided(q) or dropout:  # dropped weights are the same on any number of devices
            tile_b, tile_h = batch, heads
        shape = tile_b, tile_h, tile_q, tile_k
        sizes = batch, heads, queries, keys
        padded = tuple(-(-size // max(side, 1)) * side for size, side in zip(sizes, shape, strict=True))
        return cls(shape, padded, _steps(shape, padded, visible))

    def pad(self, x: Any, axis: int, which: int) -> Any:
        """An array padded along the axis of the queries (which = 2) or the keys (3)."""
        missing = self.padded[which] - x.shape[axis]
        if not missing or x.shape[axis] == 1:
            return x
        return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])


def _divisor(size: int, most: int) -> int:
    return max((d for d in range(1, min(size, most) + 1) if size % d == 0), default=size)


def _steps(shape: tuple[int, ...], padded: tuple[int, ...], visible: Visible) -> np.ndarray:
    """Where the visited tiles begin; for each range of queries at least one, so that no row is left out."""
    if 0 in padded:
        return np.zeros((0, 4), np.int32)
    starts = [range(0, size, side) for size, side in zip(padded, shape, strict=True)]
    pairs = []
    for i in starts[2]:
        seen = [j for j in starts[3] if visible.meets(range(i, i + shape[2]), range(j, j + shape[3]))]
        pairs += [(i, j) for j in seen or starts[3][:1]]
    return np.array([(b, h, i, j) for b in starts[0] for h in starts[1] for i, j in pairs], np.int32)


class Tile(NamedTuple):
    """One tile: where it begins, a vector of 4 traced integers, and its shape."""

    begin: Any
    shape: tuple[int, int, int, int]

    @classmethod
    def whole(cls, q: Any, k: Any) -> "Tile":
        """All in one."""
        batch, heads, _, queries, _ = q.shape
        return cls(np.zeros(4, np.int32), (batch, heads, queries, k.shape[2]))

    def positions(self) -> tuple[Any, Any]:
        """Of the queries and of the keys, as a column and a row."""
        _, _, queries, keys = self.shape
        column, row = lax.broadcasted_iota(jnp.int32, (queries, 1), 0), lax.broadcasted_iota(jnp.int32, (1, keys), 1)
        return self.begin[2] + column, self.begin[3] + row

    def cut(self, x: Any, axes: tuple[int | None, ...]) -> Any:
        """The part of x within the tile; `axes`: which of the tile's axes each axis of x is, None for none."""
        starts, sizes = self._place(x, axes)
        return lax.dynamic_slice(x, starts, sizes)

    def put(self, x: Any, part: Any, axes: tuple[int | None, ...]) -> Any:
        return lax.dynamic_update_slice(x, part, self._place(x, axes)[0])

    def add(self, x: Any, part: Any, axes: tuple[int | None, ...]) -> Any:
        """Add to x within the tile; what is of size 1 in x is summed."""
        summed = [i for i, (size, whole) in enumerate(zip(part.shape, x.shape, strict=True)) if whole == 1 != size]
        part = jnp.sum(part, summed, keepdims=True) if summed else part
        return self.put(x, lax.add(self.cut(x, axes), part), axes)

    def _place(self, x: Any, axes: tuple[int | None, ...]) -> tuple[list[Any], list[int]]:
        places = []
        for axis, size in zip((*axes, *(None,) * (x.ndim - len(axes))), x.shape, strict=True):
            if axis is None or size == 1:
                places.append((np.int32(0), size))
            else:
                places.append((self.begin[axis], self.shape[axis]))
        return [start for start, _ in places], [size for _, size in places]


# Which of a tile's axes each axis is, of (batch, kv heads, group, queries, size), (batch, kv heads, keys, size) and
# (batch, kv heads, group, queries, keys).
QUERIES, KEYS, PAIRS = (0, 1, None, 2), (0, 1, 3), (0, 1, None, 2, 3)


def keep_mask(key: Any, begin: Any, shape: tuple[int, ...], keep: float) -> Any:
    """Which weights of a tile dropout keeps: by its own key, so that forward and backward draw the same."""
    for place in range(4):
        key = jax.random.fold_in(key, begin[place])
    return jax.random.bernoulli(key, keep, shape)


def keep_all(tiling: Tiling, key: Any, shape: tuple[int, ...], keep: float) -> Any:
    """As `keep_mask` of all tiles at once: (batch, kv heads, group, queries, keys)."""
    counts = [size // max(side, 1) for size, side in zip(tiling.padded, tiling.shape, strict=True)]
    tile_b, tile_h, tile_q, tile_k = tiling.shape
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), -1).reshape(-1, 4)
    begins = jnp.asarray(grid * np.array(tiling.shape), jnp.int32)
    kept = jax.vmap(lambda begin: keep_mask(key, begin, (tile_b, tile_h, shape[2], tile_q, tile_k), keep))(begins)
    kept = jnp.transpose(kept.reshape(*counts, *kept.shape[1:]), (0, 4, 1, 5, 6, 2, 7, 3, 8))
    batch, heads, queries, keys = tiling.padded
    return kept.reshape(batch, heads, shape[2], queries, keys)[:, :, :, : shape[3], : shape[4]]
