"""Attention, softmax(q kᵀ) v, tile by tile: no array of (queries, keys) is ever held, forward or backward.

The forward keeps, of each query's row, the maximum m of the scores, the sum Σp of p = exp(s - m) and the product p v of
the tiles so far (M. Rabe and C. Staats, Self-attention Does Not Need O(n²) Memory, 2021). The backward makes each tile
of the weights again from s and lse = m + log Σp (T. Dao et al., FlashAttention, 2022).

Shapes in this file: q and out (batch, queries, kv heads, group, size), k and v (batch, keys, kv heads, size): as users
have them, so that tiles are cut out of what is there; bias and mask (batch, kv heads, group, queries, keys), segments
(batch, queries) and (batch, keys): each axis whole or of size 1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..trees import accumulation_dtype
from .attention_tiles import (
    KEYS,
    PAIRS,
    QUERIES,
    ROWS,
    TURNED_KEYS,
    TURNED_QUERIES,
    Level,
    Tile,
    Tiling,
    Visible,
    apart,
    keep_all,
    keep_mask,
)  # fmt: skip
from .block import block
from .tiling import product

Array = jax.Array


class Operands(NamedTuple):
    q: Array
    k: Array
    v: Array
    bias: Array | None
    mask: Array | None
    segments: tuple[Array, Array] | None
    key: Array | None


class Rows(NamedTuple):
    """What the forward knows of each query's row after some of its tiles."""

    m: Array  # (batch, kv heads, group, queries)
    total: Array
    weighted: Array  # Σ p v, (batch, queries, kv heads, group, size)


def plain_attention(q, k, v, bias, mask, segments, key, *, causal, window, scale, softcap, dropout):
    """The definition: all scores at once."""
    visible, dtype = Visible.of(causal, window), accumulation_dtype(q)
    s = scale * jnp.einsum("bqkgd,bskd->bkgqs", q, k, preferred_element_type=dtype)
    s = s if softcap is None else softcap * jnp.tanh(s / softcap)
    s = s if bias is None else s + jnp.broadcast_to(bias.astype(dtype), s.shape)
    seen = _seen(Tile.whole(q, k), Operands(q, k, v, bias, mask, segments, key), visible, k.shape[1])
    seen = jnp.ones_like(s, bool) if seen is None else jnp.broadcast_to(seen, s.shape)
    weights = jax.nn.softmax(jnp.where(seen, s, hidden(dtype)), -1)
    if dropout:
        kept = keep_all(Tiling.of(q, k, visible, dropout), key, s.shape, 1 - dropout).astype(dtype) / (1 - dropout)
        weights = jnp.where(jnp.any(seen, -1, keepdims=True), weights * kept, weights)
    return _weighted(weights, v, dtype).astype(q.dtype)


def attention_forward(q, k, v, bias, mask, segments, key, *, causal, window, scale, softcap, dropout):
    operands, visible = Operands(q, k, v, bias, mask, segments, key), Visible.of(causal, window)
    tiling, dtype = Tiling.of(q, k, visible, dropout), accumulation_dtype(q)
    padded = _padded(operands, tiling)

    def attend(m_before, total, weighted, q, k, v, bias, seen, kept):
        of_q, of_qk = (scale, 1.0) if q.dtype == dtype else (1.0, scale)  # q is smaller; rounded in bfloat16
        s, _ = _scores(product("bqkgd,bskd->bkgqs", of_q * q, k, dtype), bias, seen, of_qk, softcap)  # 1  scale q kᵀ, …
        m = lax.max(m_before, jnp.max(s, -1, initial=jnp.finfo(dtype).min))  # 2
        p = lax.exp(s - m[..., None])  # 3
        shrink = lax.exp(m_before - m)
        total = total * shrink + jnp.sum(p, -1)  # 4
        p = p if kept is None else p * kept  # 5
        pv = _weighted(p, v, dtype)  # 6
        return Rows(m, total, weighted * of_rows(shrink) + pv)

    def step(level: Level, rows: Rows, begin: Array) -> tuple[Rows, None]:
        tile = Tile(begin, level.shape)
        before = map(tile.cut, rows, AXES_OF_ROWS)
        parts = *before, *_tile_of(tile, padded, None if level.whole else visible, k.shape[1], dropout)
        after = apart(attend, level.parts, parts, (*AXES_OF_ROWS, *AXES_OF_TILE), AXES_OF_ROWS)
        return Rows(*map(tile.put, rows, after, AXES_OF_ROWS)), None

    rows = _no_rows(padded.q, v.shape[-1], dtype)
    for level in tiling.levels:
        rows, _ = lax.scan(functools.partial(step, level), rows, jnp.asarray(level.steps))
    m, total, weighted = *(x[..., : q.shape[1]] for x in rows[:2]), rows.weighted[:, : q.shape[1]]
    out, lse = weighted / of_rows(total), m + jnp.log(total)  # 7, 8
    if _may_be_blind(operands, visible):  # 9  rows that see no key: all have the same weight
        blind = m <= hidden(dtype)
        out, lse = jnp.where(of_rows(blind), _mean_of_values(v, dtype), out), jnp.where(blind, jnp.inf, lse)
    out = out.astype(q.dtype)
    return out, (operands, out, lse)


def attention_backward(residuals, dout, *, causal, window, scale, softcap, dropout, wanted):
    """With the weights P = exp(s - lse), out = P v and dP = dout vᵀ:

    ds = P (dP - Σ_keys P dP) = P (dP - Σ_size dout out)
    """
    operands, out, lse = residuals
    q, k, v = operands.q, operands.k, operands.v
    visible, dtype = Visible.of(causal, window), lse.dtype
    tiling = Tiling.of(q, k, visible, dropout)
    padded = _padded(operands, tiling)
    delta = jnp.moveaxis(jnp.sum(dout.astype(dtype) * out.astype(dtype), -1), 1, -1)
    rows = tiling.pad(dout, 1, 2), tiling.pad(lse, 3, 2), tiling.pad(delta, 3, 2)
    turned_q, turned_k = _turned(padded.q), _turned(padded.k)
    axes = QUERIES, ROWS, ROWS, TURNED_KEYS, *AXES_OF_TILE
    found_axes = TURNED_QUERIES, KEYS, KEYS, PAIRS

    def pull_back(dout, lse, delta, turned_k, q, k, v, bias, seen, kept):
        """The scores and all of their size are turned, (batch, kv heads, keys, group, queries): of the products below,
        only that of dq would then have to turn an operand, so it is made of k turned, and turned itself."""
        bias, seen, kept = (None if x is None else jnp.moveaxis(x, -1, 2) for x in (bias, seen, kept))
        s, slope = _scores(product("bskd,bqkgd->bksgq", k, q, dtype), bias, seen, scale, softcap)
        p = lax.exp(s - lse[:, :, None])  # 0 in rows that see no key, by 9
        dropped = p if kept is None else p * kept
        dv = product("bksgq,bqkgd->bskd", dropped, dout, dtype)  # of 6
        dp = product("bskd,bqkgd->bksgq", v, dout, dtype)  # of 6
        dp = dp if kept is None else dp * kept  # of 5
        dbias = p * (dp - delta[:, :, None])  # of 3, 4 and 7
        ds = scale * (dbias if slope is None else dbias * slope)  # of 1
        dq = product("bkds,bksgq->bkdgq", turned_k, ds, dtype)  # of 1
        dk = product("bksgq,bqkgd->bskd", ds, q, dtype)  # of 1
        return dq, dk, dv, None if bias is None else jnp.moveaxis(dbias, 2, -1)

    def step(level: Level, found: list[Array | None], begin: Array) -> tuple[list[Array | None], None]:
        tile = Tile(begin, level.shape)
        cut = map(tile.cut, (*rows, turned_k), axes)
        operands = *cut, *_tile_of(tile, padded, None if level.whole else visible, k.shape[1], dropout)
        parts = apart(pull_back, level.parts, operands, axes, found_axes)
        pairs = zip(found, parts, found_axes, strict=True)
        return [None if x is None else tile.add(x, part, own) for x, part, own in pairs], None

    targets = zip((turned_q, padded.k, padded.v, padded.bias), wanted, strict=False)
    found = [lax.full_like(x, 0, dtype) if on else None for x, on in targets]
    for level in tiling.levels:
        found, _ = lax.scan(functools.partial(step, level), found, jnp.asarray(level.steps))
    found[0] = None if found[0] is None else _turned_back(found[0])
    pairs = zip(found, (q, k, v, operands.bias), strict=True)
    dq, dk, dv, dbias = (None if x is None else x[tuple(map(slice, like.shape))] for x, like in pairs)
    if dv is not None and _may_be_blind(operands, visible):
        dv = dv + _cotangent_of_mean(jnp.where(of_rows(lse == jnp.inf), dout.astype(dtype), 0), k.shape[1])  # of 9
    return dq, dk, dv, dbias, None, None, None


tiled_attention = block(attention_forward, attention_backward, plain=plain_attention, name="attention")


# ---------------------------------------------------------------- of a tile


def hidden(dtype: Any) -> Any:
    """The score of a key that is not seen: below all others, yet finite, so that it can be subtracted from itself."""
    return np.asarray(np.finfo(dtype).min / 2, dtype)


AXES_OF_ROWS = ROWS, ROWS, QUERIES
AXES_OF_TILE = QUERIES, KEYS, KEYS, PAIRS, PAIRS, PAIRS


def _tile_of(
    tile: Tile, operands: Operands, visible: Visible | None, keys: int, dropout: float
) -> tuple[Array | None, ...]:
    """A tile's q, k, v, bias, which keys are seen, and what dropout multiplies the weights with.

    visible: None where all are seen, by their positions."""
    q, k, v = (tile.cut(x, axes) for x, axes in zip(operands, AXES_OF_TILE[:3], strict=False))
    bias = None if operands.bias is None else tile.cut(operands.bias, PAIRS)
    kept = None
    if dropout:
        shape, dtype = (*tile.shape[:2], q.shape[3], *tile.shape[2:]), accumulation_dtype(q)
        kept = keep_mask(operands.key, tile.begin, shape, 1 - dropout).astype(dtype) / (1 - dropout)
    return q, k, v, bias, _seen(tile, operands, visible, keys), kept


def _scores(
    qk: Array, bias: Array | None, seen: Array | None, scale: float, softcap: float | None
) -> tuple[Array, Array | None]:
    """The scores of a tile, of the products of its queries and keys, and the slope of the cap."""
    s, slope = scale * qk, None
    if softcap is not None:
        y = lax.tanh(s / softcap)
        s, slope = softcap * y, 1 - y**2
    if bias is not None:
        s = s + jnp.broadcast_to(bias.astype(s.dtype), s.shape)
    return s if seen is None else jnp.where(jnp.broadcast_to(seen, s.shape), s, hidden(s.dtype)), slope


def _weighted(weights: Array, v: Array, dtype: Any) -> Array:
    """Σ weights v over the keys. Asked for in the order of the result, the product of bfloat16 arrays of one head of a
    group fails in jaxlib 0.10.2 ("Unsupported element type for DotThunk")."""
    return jnp.moveaxis(product("bkgqs,bskd->bkgqd", weights, v, dtype), 3, 1)


def _seen(tile: Tile, operands: Operands, visible: Visible | None, keys: int) -> Array | None:
    """Which keys each query of a tile sees, of rank 5; None: all. Those that pad the last tile are seen by none."""
    conditions = []
    if visible is not None:
        rows, columns = tile.positions()
        conditions.append(visible.mask(rows, columns))
        if keys % max(tile.shape[3], 1):
            conditions.append(columns < keys)
    conditions = [jnp.broadcast_to(c, tile.shape[2:])[None, None, None] for c in conditions if c is not None]
    if operands.mask is not None:
        conditions.append(tile.cut(operands.mask, PAIRS))
    if operands.segments is not None:
        of_q, of_k = operands.segments
        of_q, of_k = tile.cut(of_q, (0, 2)), tile.cut(of_k, (0, 3))
        conditions.append((of_q[:, :, None] == of_k[:, None])[:, None, None])
    shape = jnp.broadcast_shapes(*(c.shape for c in conditions)) if conditions else ()
    conditions = [jnp.broadcast_to(c, shape) for c in conditions]
    return functools.reduce(lax.bitwise_and, conditions) if conditions else None


# ---------------------------------------------------------------- of the whole


def _padded(operands: Operands, tiling: Tiling) -> Operands:
    """The operands of whole tiles."""
    q, k, v, bias, mask, segments, key = operands
    q, k, v = tiling.pad(q, 1, 2), tiling.pad(k, 1, 3), tiling.pad(v, 1, 3)
    bias, mask = (None if x is None else tiling.pad(tiling.pad(x, 3, 2), 4, 3) for x in (bias, mask))
    segments = None if segments is None else (tiling.pad(segments[0], 1, 2), tiling.pad(segments[1], 1, 3))
    return Operands(q, k, v, bias, mask, segments, key)


def _turned(x: Array) -> Array:
    """(batch, time, heads, …, size) as (batch, heads, size, …, time)."""
    return jnp.moveaxis(jnp.moveaxis(x, 1, -1), -2, 2)


def _turned_back(x: Array) -> Array:
    return jnp.moveaxis(jnp.moveaxis(x, 2, -2), -1, 1)


def of_rows(x: Array) -> Array:
    """What is of each row, (batch, kv heads, group, queries), to be broadcast against (…, queries, …, size)."""
    return jnp.moveaxis(x, -1, 1)[..., None]


def _may_be_blind(operands: Operands, visible: Visible) -> bool:
    """Whether there may be a row that sees no key: not if each sees the first."""
    hiding = operands.bias, operands.mask, operands.segments, visible.left
    return any(x is not None for x in hiding) or (visible.right or 0) < 0 or operands.k.shape[1] == 0


def _no_rows(q: Array, size: int, dtype: Any) -> Rows:
    weighted = lax.full_like(q[..., :1], 0, dtype)  # divided as q is
    zeros = jnp.moveaxis(weighted[..., 0], 1, -1)
    return Rows(zeros + jnp.finfo(dtype).min, zeros, jnp.broadcast_to(weighted, (*q.shape[:-1], size)))


def _mean_of_values(v: Array, dtype: Any) -> Array:
    return (jnp.sum(v, 1, dtype=dtype) / max(v.shape[1], 1))[:, None, :, None]  # (batch, 1, kv heads, 1, size)


def _cotangent_of_mean(dmean: Array, keys: int) -> Array:
    return jnp.sum(dmean, (1, 3))[:, None] / max(keys, 1)  # (batch, 1, kv heads, size)
