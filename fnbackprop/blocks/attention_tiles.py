"""The tiles of attention: which are visited, how they are cut out of the operands, and what a query may see in one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .tiling import even_size, may_be_divided

SIDE = 128  # queries and keys of a small tile: 64 KiB of scores of a head, kept in a core's cache
BLOCK = 4  # small tiles along each side of a large one: XLA's CPU runtime divides its products among threads
PARTS = 2  # sequences times heads of a small tile, each by itself, in products of matrices: more take longer to compile


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

    def joins(self, queries: range, keys: range) -> bool:
        """Whether all of these queries may see all of these keys."""
        after = self.right is None or keys[-1] <= queries[0] + self.right
        return after and (self.left is None or keys[0] >= queries[-1] - self.left)


class Level(NamedTuple):
    """Tiles of one size.

    shape: of a tile, (batch, kv heads, queries, keys). parts: sequences and heads of a tile that are computed apart.
    whole: whether all of its queries may see all of its keys by their positions. steps: (count, 4), where the tiles
    begin.
    """

    shape: tuple[int, int, int, int]
    parts: tuple[int, int]
    whole: bool
    steps: np.ndarray


class Tiling(NamedTuple):
    """How (batch, kv heads, queries, keys) is cut: in large tiles where all is seen, and in small ones elsewhere.

    padded: the sizes of the whole.
    """

    small: Level
    large: Level
    padded: tuple[int, int, int, int]

    @classmethod
    def of(cls, q: Any, k: Any, visible: Visible, dropout: float) -> "Tiling":
        (batch, queries, heads, group, _), keys = q.shape, k.shape[1]
        tile_q, tile_k = even_size(queries, SIDE), even_size(keys, SIDE)
        tile_h = _divisor(heads, PARTS)
        tile_b = _divisor(batch, max(PARTS // max(tile_h, 1), 1))
        together = may_be_divided(q)
        if together or dropout:  # dropped weights are the same on any number of devices
            tile_b, tile_h = batch, heads
        shape = tile_b, tile_h, tile_q, tile_k
        sizes = batch, heads, queries, keys
        padded = tuple(-(-size // max(side, 1)) * side for size, side in zip(sizes, shape, strict=True))
        parts = (1, 1) if together or tile_b * tile_h > PARTS or 0 in padded else (tile_b, tile_h)
        block = tile_q * max(BLOCK // max(group, 1), 1), tile_k * BLOCK
        large = [] if together or dropout or 0 in padded else _wholly_seen(block, queries, keys, visible)
        small = [] if 0 in padded else _partly_seen(shape[2:], padded[2:], visible, block, set(large))
        return cls(
            Level(shape, parts, False, _steps(small, shape, padded)),
            Level((1, 1, *block), (1, 1), True, _steps(large, (1, 1), padded)),
            padded,
        )

    @property
    def levels(self) -> list[Level]:
        return [level for level in (self.large, self.small) if len(level.steps)]

    def pad(self, x: Any, axis: int, which: int) -> Any:
        """An array padded along the axis of the queries (which = 2) or the keys (3)."""
        missing = self.padded[which] - x.shape[axis]
        if not missing or x.shape[axis] == 1:
            return x
        return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])


def _divisor(size: int, most: int) -> int:
    return max((d for d in range(1, min(size, most) + 1) if size % d == 0), default=size)


def _wholly_seen(block: tuple[int, int], queries: int, keys: int, visible: Visible) -> list[tuple[int, int]]:
    """Where large tiles begin of which every query sees every key."""
    rows, columns = (range(0, size - side + 1, side) for size, side in zip((queries, keys), block, strict=True))
    return [
        (i, j) for i in rows for j in columns if visible.joins(range(i, i + block[0]), range(j, j + block[1]))
    ]  # fmt: skip


def _partly_seen(
    shape: tuple[int, int], padded: tuple[int, int], visible: Visible, block: tuple[int, int], large: set
) -> list[tuple[int, int]]:
    """Where small tiles begin in which something is seen, outside of the large ones; for each range of queries at least
    one tile is visited, so that no row is left out."""
    rows, columns = (range(0, size, side) for size, side in zip(padded, shape, strict=True))
    found = []
    for i in rows:
        seen = [j for j in columns if visible.meets(range(i, i + shape[0]), range(j, j + shape[1]))]
        place = i // block[0] * block[0]
        found += [(i, j) for j in seen or columns[:1] if (place, j // block[1] * block[1]) not in large]
    return found


def _steps(pairs: list[tuple[int, int]], shape: tuple[int, ...], padded: tuple[int, ...]) -> np.ndarray:
    sequences, heads = (range(0, size, max(side, 1)) for size, side in zip(padded[:2], shape[:2], strict=True))
    steps = [(b, h, i, j) for b in sequences for h in heads for i, j in pairs]
    return np.array(steps, np.int32).reshape(-1, 4)


class Tile(NamedTuple):
    """One tile: where it begins, a vector of 4 traced integers, and its shape."""

    begin: Any
    shape: tuple[int, int, int, int]

    @classmethod
    def whole(cls, q: Any, k: Any) -> "Tile":
        """All in one."""
        batch, queries, heads, _, _ = q.shape
        return cls(np.zeros(4, np.int32), (batch, heads, queries, k.shape[1]))

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


# Which of a tile's axes each axis is, of (batch, queries, kv heads, group, size), (batch, keys, kv heads, size),
# (batch, kv heads, group, queries) and (batch, kv heads, group, queries, keys); and of the first two turned around,
# (batch, kv heads, size, group, queries) and (batch, kv heads, size, keys).
QUERIES, KEYS, ROWS, PAIRS = (0, 2, 1, None), (0, 3, 1), (0, 1, None, 2), (0, 1, None, 2, 3)
TURNED_QUERIES, TURNED_KEYS = (0, 1, None, None, 2), (0, 1, None, 3)


def apart(
    fun: Callable, parts: tuple[int, int], operands: Sequence[Any], axes: Sequence[Any], of: Sequence[Any]
) -> Any:
    """A function of a tile's arrays, or None, for each sequence and head by itself, and its results joined again.

    axes: as in `Tile.cut`, of the operands. of: of the results."""
    if parts == (1, 1):
        return fun(*operands)
    pieces = zip(*(_split(x, parts, own) for x, own in zip(operands, axes, strict=True)), strict=True)
    results = [fun(*piece) for piece in pieces]
    return [_joined(xs, parts, own) for xs, own in zip(zip(*results, strict=True), of, strict=True)]


def _split(x: Any, parts: tuple[int, int], axes: tuple[int | None, ...]) -> list[Any]:
    if x is None:
        return [None] * (parts[0] * parts[1])
    pieces = [x]
    for which, count in enumerate(parts):
        axis = axes.index(which)
        once = x.shape[axis] == 1
        pieces = [p for x in pieces for p in ([x] * count if once else lax.split(x, (1,) * count, axis))]
    return pieces


def _joined(pieces: Sequence[Any], parts: tuple[int, int], axes: tuple[int | None, ...]) -> Any:
    if pieces[0] is None:
        return None
    for which in (1, 0):
        rows = [pieces[i : i + parts[which]] for i in range(0, len(pieces), parts[which])]
        pieces = [lax.concatenate(row, axes.index(which)) for row in rows]
    return pieces[0]


def keep_mask(key: Any, begin: Any, shape: tuple[int, ...], keep: float) -> Any:
    """Which weights of a tile dropout keeps: by its own key, so that forward and backward draw the same."""
    for place in range(4):
        key = jax.random.fold_in(key, begin[place])
    return jax.random.bernoulli(key, keep, shape)


def keep_all(tiling: Tiling, key: Any, shape: tuple[int, ...], keep: float) -> Any:
    """As `keep_mask` of all tiles at once: (batch, kv heads, group, queries, keys)."""
    tile_b, tile_h, tile_q, tile_k = sides = tiling.small.shape
    counts = [size // max(side, 1) for size, side in zip(tiling.padded, sides, strict=True)]
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), -1).reshape(-1, 4)
    begins = jnp.asarray(grid * np.array(sides), jnp.int32)
    kept = jax.vmap(lambda begin: keep_mask(key, begin, (tile_b, tile_h, shape[2], tile_q, tile_k), keep))(begins)
    kept = jnp.transpose(kept.reshape(*counts, *kept.shape[1:]), (0, 4, 1, 5, 6, 2, 7, 3, 8))
    batch, heads, queries, keys = tiling.padded
    return kept.reshape(batch, heads, shape[2], queries, keys)[:, :, :, : shape[3], : shape[4]]
