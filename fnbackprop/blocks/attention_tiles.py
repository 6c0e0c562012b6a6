"""The tiles of attention: which are visited, how they are cut out of the operands, and what a query may see in one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .tiling import even_size, may_be_divided

SCORES = 2**20  # of a tile; in float32, 4 MiB
ROWS = 128  # queries of a tile, at most
GROUPS = 8  # of neighbouring queries: each has a range of keys of its own, and is compiled by itself


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

    def range_of(self, queries: range, keys: int) -> range:
        """The keys that any of these queries may see."""
        first = 0 if self.left is None else max(queries[0] - self.left, 0)
        return range(first, keys if self.right is None else min(queries[-1] + self.right + 1, keys))


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


class Tiles(NamedTuple):
    """Tiles of one shape, by where they begin: (count, 4)."""

    shape: tuple[int, int, int, int]
    begins: np.ndarray


class Tiling(NamedTuple):
    """How (batch, kv heads, queries, keys) is cut: a tile has all keys that any of its queries may see.

    queries: how many there are with those that fill up the last tile.
    """

    queries: int
    groups: tuple[Tiles, ...]

    @classmethod
    def of(cls, q: Any, k: Any, visible: Visible, dropout: float) -> "Tiling":
        (batch, heads, group, queries, _), keys = q.shape, k.shape[2]
        if 0 in (batch, heads, group, queries, keys):
            return cls(queries, ())
        most = max(SCORES // (group * len(visible.range_of(range(keys, keys + ROWS), 2 * keys))), 1)
        if may_be_divided(q) or dropout:  # dropped weights are the same on any number of devices
            tile_b, tile_h, rows = batch, heads, even_size(queries, max(most // (batch * heads), 1))
        else:
            rows = even_size(queries, min(most, ROWS))
            tile_h = _divisor(heads, most // rows)
            tile_b = _divisor(batch, most // (rows * tile_h))
        strips = [range(i, i + rows) for i in range(0, queries, rows)]
        together = len(strips) if visible == (None, None) else -(-len(strips) // GROUPS)
        groups = []
        for i in range(0, len(strips), together):
            seen = [(strip[0], visible.range_of(strip, keys)) for strip in strips[i : i + together]]
            size = max(len(of_strip) for _, of_strip in seen)
            starts = [(row, min(of_strip.start, keys - size)) for row, of_strip in seen if of_strip]
            outer = [(b, h) for b in range(0, batch, tile_b) for h in range(0, heads, tile_h)]
            if starts:
                begins = np.array([(b, h, row, key) for b, h in outer for row, key in starts], np.int32)
                groups.append(Tiles((tile_b, tile_h, rows, size), begins))
        return cls(len(strips) * rows, tuple(groups))

    def visit(self, step: Callable[[Any, Tile], Any], carry: Any) -> Any:
        """`step(carry, tile) -> carry` over all tiles."""
        for shape, begins in self.groups:
            if len(begins) == 1:
                carry = step(carry, Tile(begins[0], shape))
            else:
                walk = lambda carry, begin, shape=shape: (step(carry, Tile(begin, shape)), None)  # noqa: E731
                carry, _ = lax.scan(walk, carry, jnp.asarray(begins))
        return carry

    def pad(self, x: Any, axis: int) -> Any:
        """An array filled up along its axis of queries."""
        missing = self.queries - x.shape[axis]
        if not missing or x.shape[axis] == 1:
            return x
        return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])


def _divisor(size: int, most: int) -> int:
    return max((d for d in range(1, min(size, most) + 1) if size % d == 0), default=1)


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

    def step(kept: Any, tile: Tile) -> Any:
        size = (*tile.shape[:2], shape[2], *tile.shape[2:])
        return tile.put(kept, keep_mask(key, tile.begin, size, keep), PAIRS)

    whole = jnp.zeros((*shape[:3], tiling.queries, shape[4]), bool)
    return tiling.visit(step, whole)[:, :, :, : shape[3]]
