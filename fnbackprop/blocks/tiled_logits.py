"""What a loss reads of the logits x w + b of each token, without ever holding those of all tokens.

The forward goes through the logits tile by tile and keeps their logsumexp; the backward makes each tile again and turns
it into its part of the cotangents of x, w and b. That is four products for three, and far less memory to go through.

Shapes in this file: x (tokens, width), w (width, classes), or (classes, width) where `tied`, b (classes,), labels and
mask (tokens,).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..jaxprs.avals import aval_of, explicit_sharding
from ..trees import accumulation_dtype
from .block import block
from .tiling import even_size, may_be_divided, product

Array = jax.Array
TOKENS, LOGITS = 1024, 2**20  # of a tile: in float32, 4 MiB of logits


class Summary(NamedTuple):
    """What a loss reads of the logits of each token: (tokens,) each. mean: over the classes, or None."""

    lse: Array
    at_label: Array
    mean: Array | None


def plain_logits(x, w, bias, labels, mask, *, tied, with_mean):
    """The definition: all logits at once."""
    x = jnp.where(counted_of(mask, labels)[:, None], x, 0)
    logits = logits_of(x, w, bias, tied, accumulation_dtype(x, w))
    classes = jnp.where(labels < 0, logits.shape[-1], labels)[:, None]  # a negative one does not count from the end
    at_label = jnp.take_along_axis(logits, classes, -1, mode="fill")[:, 0]
    return Summary(jax.nn.logsumexp(logits, -1), at_label, jnp.mean(logits, -1) if with_mean else None)


class Cut(NamedTuple):
    """How (tokens, classes) is cut into tiles. The last along an axis ends where the whole ends, and overlaps others.

    begins: of each tile, (count, 2), before it is moved to end with the whole.
    """

    tokens: int
    classes: int
    begins: Array

    @classmethod
    def of(cls, x: Array, w: Array, tied: bool) -> "Cut":
        tokens, classes = x.shape[0], w.shape[0 if tied else 1]
        tile_t = tokens if may_be_divided(x) else even_size(tokens, TOKENS)
        tile_c = classes if explicit_sharding(aval_of(w)) else even_size(classes, max(LOGITS // max(tile_t, 1), 1))
        starts = (np.arange(0, n, max(side, 1), dtype=np.int32) for n, side in ((classes, tile_c), (tokens, tile_t)))
        begins = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)[:, ::-1]
        return cls(tile_t, tile_c, jnp.asarray(begins))


class Tile:
    """One tile: its tokens and classes, its logits, and which of them no tile before it has."""

    def __init__(self, cut: Cut, begin: Array, operands: tuple, tied: bool):
        x, w, bias, labels, counted = operands
        self.w_axis, tokens, classes = 0 if tied else 1, x.shape[0], w.shape[0 if tied else 1]
        self.token = lax.min(begin[0], np.int32(tokens - cut.tokens))
        self.column = lax.min(begin[1], np.int32(classes - cut.classes))
        self.count = cut.tokens
        self.counted, labels = self.rows(counted)[:, None], self.rows(labels)
        self.x = jnp.where(self.counted, self.rows(x), 0)
        self.w = lax.dynamic_slice_in_dim(w, self.column, cut.classes, self.w_axis)
        bias = None if bias is None else lax.dynamic_slice_in_dim(bias, self.column, cut.classes)
        self.logits = logits_of(self.x, self.w, bias, tied, accumulation_dtype(x, w))
        rows = self.token + jnp.arange(cut.tokens, dtype=jnp.int32)
        columns = self.column + jnp.arange(cut.classes, dtype=jnp.int32)
        self.fresh = (rows >= begin[0])[:, None] & (columns >= begin[1])[None]
        self.is_label = labels[:, None] == columns[None]

    def rows(self, x: Array) -> Array:
        return lax.dynamic_slice_in_dim(x, self.token, self.count)

    def put_rows(self, x: Array, part: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(x, part, self.token, 0)


def logits_forward(x, w, bias, labels, mask, *, tied, with_mean):
    dtype, counted, classes = accumulation_dtype(x, w), counted_of(mask, labels), w.shape[0 if tied else 1]
    operands, cut = (x, w, bias, labels, counted), Cut.of(x, w, tied)

    def step(known: list[Array], begin: Array) -> tuple[list[Array], None]:
        tile = Tile(cut, begin, operands, tied)
        before, total, at_label, mean = map(tile.rows, known)
        logits = jnp.where(tile.fresh, tile.logits, -jnp.inf)  # 1
        m = lax.max(before, jnp.max(logits, -1))  # 2
        total = total * lax.exp(before - m) + jnp.sum(lax.exp(logits - m[:, None]), -1)  # 3
        at_label += jnp.sum(jnp.where(tile.fresh & tile.is_label, tile.logits, 0), -1)  # 4
        mean += jnp.sum(jnp.where(tile.fresh, tile.logits, 0), -1) / classes if with_mean else 0  # 5
        return list(map(tile.put_rows, known, (m, total, at_label, mean))), None

    zeros = lax.full_like(x[:, :1], 0, dtype)[:, 0]  # divided as x is
    (m, total, at_label, mean), _ = lax.scan(step, [zeros + jnp.finfo(dtype).min, zeros, zeros, zeros], cut.begins)
    lse = m + jnp.log(total)  # 6
    at_label = jnp.where((labels >= 0) & (labels < classes), at_label, jnp.nan)  # 7
    return Summary(lse, at_label, mean if with_mean else None), (operands, lse)


def logits_backward(residuals, cotangents, *, tied, with_mean, wanted):
    operands, lse = residuals
    x, w, bias, _, _ = operands
    dtype, cut, classes = lse.dtype, Cut.of(x, w, tied), w.shape[0 if tied else 1]
    turned_x = None if tied else x.T

    def step(found: list[Array | None], begin: Array) -> tuple[list[Array | None], None]:
        tile = Tile(cut, begin, operands, tied)
        dlse, dat_label = (tile.rows(ct)[:, None] for ct in cotangents[:2])
        p = lax.exp(tile.logits - tile.rows(lse)[:, None])
        dlogits = dlse * p + jnp.where(tile.is_label, dat_label, 0)  # of 2, 3, 6 and of 4, 7
        if with_mean:
            dlogits += tile.rows(cotangents[2])[:, None] / classes  # of 5
        dlogits = jnp.where(tile.fresh, dlogits, 0)  # of 1
        dx, dw, db = found
        if dx is not None:
            part = product("nv,vd->nd" if tied else "nv,dv->nd", dlogits, tile.w, dtype)
            dx = add_at(dx, jnp.where(tile.counted, part, 0), tile.token, 0)
        if dw is not None:
            dw = add_at(dw, _of_w(tile, turned_x, dlogits, dtype), tile.column, tile.w_axis)
        db = None if db is None else add_at(db, jnp.sum(dlogits, 0), tile.column, 0)
        return [dx, dw, db], None

    targets = zip((x, w, bias), wanted[:3], strict=True)
    start = [lax.full_like(a, 0, dtype) if on and a is not None else None for a, on in targets]
    (dx, dw, db), _ = lax.scan(step, start, cut.begins)
    return dx, dw, db, None, None


def _of_w(tile: Tile, turned_x: Array | None, dlogits: Array, dtype: Any) -> Array:
    """A tile's part of the cotangent of w. An operand is turned before: XLA's CPU products that do it take longer."""
    if turned_x is None:
        return product("vn,nd->vd", lax.optimization_barrier(dlogits.T), tile.x, dtype)
    own = lax.dynamic_slice_in_dim(turned_x, tile.token, tile.count, 1)
    return product("dn,nv->dv", jnp.where(tile.counted.T, own, 0), dlogits, dtype)


tiled_logits = block(logits_forward, logits_backward, plain=plain_logits, name="linear_cross_entropy")


def logits_of(x: Array, w: Array, bias: Array | None, tied: bool, dtype: Any) -> Array:
    logits = product("nd,vd->nv" if tied else "nd,dv->nv", x, w, dtype)
    return logits if bias is None else logits + bias.astype(dtype)[None]


def counted_of(mask: Array | None, labels: Array) -> Array:
    return lax.full_like(labels, True, jnp.bool_) if mask is None else mask


def add_at(x: Array, part: Array, start: Array, axis: int) -> Array:
    """Add to the part of x that begins at `start` along an axis."""
    own = lax.dynamic_slice_in_dim(x, start, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(x, own + part, start, axis)
