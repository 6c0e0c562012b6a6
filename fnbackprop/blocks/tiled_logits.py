"""What a loss reads of the logits x w + b of each token, without ever holding those of all tokens.

The forward goes through the logits tile by tile and keeps their logsumexp; the backward makes each tile again and turns
it into its part of the cotangents of x, w and b. That is four products for three, and far less memory to go through.

Shapes in this file: x (tokens, width), w (width, classes), or (classes, width) where `tied`, b (classes,), labels and
mask (tokens,).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..jaxprs.avals import aval_of, explicit_sharding
from ..trees import accumulation_dtype
from .block import block
from .tiling import even_size, may_be_divided, product

Array = jax.Array
TOKENS, LOGITS, LINE = 1024, 2**20, 128  # of a tile: in float32, 4 MiB of logits


class Summary(NamedTuple):
    """What a loss reads of the logits of each token: (tokens,) each. mean: over the classes, or None."""

    lse: Array
    at_label: Array
    mean: Array | None


def plain_logits(x, w, bias, labels, mask, *, tied, with_mean):
    """The definition: all logits at once."""
    x = x if mask is None else jnp.where(mask[:, None], x, 0)
    logits = logits_of(x, w, bias, tied, accumulation_dtype(x, w))
    mean = jnp.mean(logits, -1) if with_mean else None
    return Summary(jax.nn.logsumexp(logits, -1), logit_at(labels, logits), mean)


class Level(NamedTuple):
    """Tiles of so many classes. begins: their first token and class, (count, 2)."""

    classes: int
    begins: Array


class Cut(NamedTuple):
    """How (tokens, classes) is cut: no two tiles overlap, so no logit has to be hidden.

    tokens: of a tile. padded: of all tiles, the last of which may go beyond the tokens. levels: the tiles, those of the
    classes that are left over apart.
    """

    tokens: int
    padded: int
    levels: list[Level]

    @classmethod
    def of(cls, x: Array, w: Array, tied: bool) -> "Cut":
        tokens, classes = x.shape[0], w.shape[0 if tied else 1]
        tile_t = max(tokens if may_be_divided(x) else even_size(tokens, TOKENS), 1)
        tile_c = max(classes if explicit_sharding(aval_of(w)) else _columns(classes, LOGITS // tile_t), 1)
        padded, whole = -(-tokens // tile_t) * tile_t, classes // tile_c * tile_c
        levels = []
        for width, first in ((tile_c, range(0, whole, tile_c)), (classes - whole, [whole])):
            begins = [(i, j) for j in first for i in range(0, padded, tile_t)] if width else []
            levels += [Level(width, jnp.asarray(begins, jnp.int32))] if begins else []
        return cls(tile_t, padded, levels)

    def pad(self, x: Array, filling: Any = 0) -> Array:
        """An array of tokens, for those of all tiles."""
        edges = [(0, self.padded - x.shape[0]), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, edges, constant_values=filling)

    def scan(self, step: Callable, carry: Any) -> Any:
        """step(carry, where a tile begins, its classes), through all tiles."""
        for level in self.levels:
            carry, _ = lax.scan(lambda carry, at, n=level.classes: (step(carry, at, n), None), carry, level.begins)
        return carry


def _columns(classes: int, most: int) -> int:
    """Classes of a tile: at most so many, and where they are many, of whole cache lines and vector registers."""
    return classes if classes <= most else most // LINE * LINE or max(most, 1)


class Operands(NamedTuple):
    """As the tiles are cut out of them: x without the tokens that do not count, padded."""

    x: Array
    w: Array
    bias: Array | None
    labels: Array


class Tile:
    """One tile: its tokens and classes, and its logits."""

    def __init__(self, cut: Cut, begin: Array, classes: int, operands: Operands, tied: bool):
        x, w, bias, labels = operands
        self.w_axis, self.count, (self.token, self.column) = 0 if tied else 1, cut.tokens, begin
        self.x, self.w = self.rows(x), lax.dynamic_slice_in_dim(w, self.column, classes, self.w_axis)
        bias = None if bias is None else lax.dynamic_slice_in_dim(bias, self.column, classes)
        self.logits = logits_of(self.x, self.w, bias, tied, accumulation_dtype(x, w))
        self.is_label = self.rows(labels)[:, None] == self.column + jnp.arange(classes, dtype=jnp.int32)[None]

    def rows(self, x: Array) -> Array:
        return lax.dynamic_slice_in_dim(x, self.token, self.count)

    def put_rows(self, x: Array, part: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(x, part, self.token, 0)


def logits_forward(x, w, bias, labels, mask, *, tied, with_mean):
    dtype, tokens, classes = accumulation_dtype(x, w), x.shape[0], w.shape[0 if tied else 1]
    cut, counted = Cut.of(x, w, tied), x if mask is None else jnp.where(mask[:, None], x, 0)
    operands = Operands(cut.pad(counted), w, bias, cut.pad(labels))

    def step(known: list[Array], begin: Array, width: int) -> list[Array]:
        tile = Tile(cut, begin, width, operands, tied)
        before, total, at_label, mean = map(tile.rows, known)
        m = lax.max(before, jnp.max(tile.logits, 1))  # 1
        total = total * lax.exp(before - m) + jnp.sum(lax.exp(tile.logits - m[:, None]), 1)  # 2
        at_label += jnp.sum(jnp.where(tile.is_label, tile.logits, 0), 1)  # 3
        mean += jnp.sum(tile.logits, 1) / classes if with_mean else 0  # 4
        return list(map(tile.put_rows, known, (m, total, at_label, mean)))

    zeros = lax.full_like(operands.x[:, :1], 0, dtype).squeeze(1)  # divided as x is
    known = cut.scan(step, [zeros + jnp.finfo(dtype).min, zeros, zeros, zeros])
    m, total, at_label, mean = (a[:tokens] for a in known)
    lse = m + jnp.log(total)  # 5
    at_label = jnp.where((labels >= 0) & (labels < classes), at_label, jnp.nan)  # 6
    return Summary(lse, at_label, mean if with_mean else None), (operands, mask, lse)


def logits_backward(residuals, cotangents, *, tied, with_mean, wanted):
    operands, mask, lse = residuals
    x, w, bias, _ = operands
    dtype, tokens, classes, cut = lse.dtype, lse.size, w.shape[0 if tied else 1], Cut.of(lse, w, tied)
    dlse, dat_label, *dmean = (cut.pad(ct) for ct in cotangents if ct is not None)
    turned_x, lse = None if tied else x.T, cut.pad(lse, jnp.inf)

    def step(found: list[Array | None], begin: Array, width: int) -> list[Array | None]:
        tile = Tile(cut, begin, width, operands, tied)
        p = lax.exp(tile.logits - tile.rows(lse)[:, None])
        dlogits = tile.rows(dlse)[:, None] * p  # of 1, 2 and 5
        dlogits += jnp.where(tile.is_label, tile.rows(dat_label)[:, None], 0)  # of 3 and 6
        dlogits += sum(tile.rows(ct)[:, None] / classes for ct in dmean)  # of 4
        dx, dw, db = found
        if dx is not None:
            dx = add_at(dx, product("nv,vd->nd" if tied else "nv,dv->nd", dlogits, tile.w, dtype), tile.token, 0)
        if dw is not None:
            dw = add_at(dw, of_w(tile.x, turned_x, tile.token, dlogits, dtype), tile.column, tile.w_axis)
        db = None if db is None else add_at(db, jnp.sum(dlogits, 0), tile.column, 0)
        return [dx, dw, db]

    targets = zip((x, w, bias), wanted[:3], strict=True)
    start = [lax.full_like(a, 0, dtype) if on else None for a, on in targets]
    dx, dw, db = cut.scan(step, start)
    if dx is not None:
        dx = dx[:tokens] if mask is None else jnp.where(mask[:, None], dx[:tokens], 0)
    return dx, dw, db, None, None


tiled_logits = block(logits_forward, logits_backward, plain=plain_logits, name="linear_cross_entropy")


def logits_of(x: Array, w: Array, bias: Array | None, tied: bool, dtype: Any) -> Array:
    logits = product("nd,vd->nv" if tied else "nd,dv->nv", x, w, dtype)
    return logits if bias is None else logits + bias.astype(dtype)[None]


def logit_at(labels: Array, logits: Array) -> Array:
    """Of each token, the logit at its label; NaN at a label that is no class."""
    classes = jnp.where(labels < 0, logits.shape[1], labels)  # a negative one does not count from the end
    return jnp.take_along_axis(logits, classes[:, None], 1, mode="fill").squeeze(1)


def of_w(x: Array, turned_x: Array | None, token: Array, dlogits: Array, dtype: Any) -> Array:
    """The part of some tokens in the cotangent of w; turned_x: x.T of all tokens, None if w is tied. An operand is
    turned before the product: XLA's CPU products that do it take longer, and in a loop of one step, one of bfloat16
    with a float32 result fails in jaxlib 0.10.2 and 0.12."""
    if turned_x is None:
        return product("vn,nd->vd", lax.optimization_barrier(dlogits.T), x, dtype)
    turned = lax.optimization_barrier(lax.dynamic_slice_in_dim(turned_x, token, x.shape[0], 1))
    return product("dn,nv->dv", turned, dlogits, dtype)


def add_at(x: Array, part: Array, start: Array, axis: int) -> Array:
    """Add to the part of x that begins at `start` along an axis."""
    own = lax.dynamic_slice_in_dim(x, start, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(x, own + part, start, axis)
