"""Attention, softmax(q kᵀ) v, tile by tile: no array of (queries, keys) is ever held, forward or backward.

The forward keeps, of each query's row, the maximum m of the scores, the sum Σp of p = exp(s - m) and the product p v of
the tiles so far (M. Rabe and C. Staats, Self-attention Does Not Need O(n²) Memory, 2021). The backward makes each tile
of the weights again from s and lse = m + log Σp (T. Dao et al., FlashAttention, 2022).

Shapes in this file: q (batch, kv heads, group, queries, size), k and v (batch, kv heads, keys, size); bias and mask
(batch, kv heads, group, queries, keys), segments (batch, queries) and (batch, keys): each axis whole or of size 1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..trees import accumulation_dtype
from .attention_tiles import KEYS, PAIRS, QUERIES, Tile, Tiling, Visible, keep_all, keep_mask
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
    weighted: Array  # Σ p v, (batch, kv heads, group, queries, size)


def plain_attention(q, k, v, bias, mask, segments, key, *, causal, window, scale, softcap, dropout):
    """The definition: all scores at once."""
    visible, dtype = Visible.of(causal, window), accumulation_dtype(q)
    s = scale * jnp.einsum("bkgqd,bksd->bkgqs", q, k, preferred_element_type=dtype)
    s = s if softcap is None else softcap * jnp.tanh(s / softcap)
    s = s if bias is None else s + jnp.broadcast_to(bias.astype(dtype), s.shape)
    seen = _seen(Tile.whole(q, k), Operands(q, k, v, bias, mask, segments, key), visible, k.shape[2])
    seen = jnp.ones_like(s, bool) if seen is None else jnp.broadcast_to(seen, s.shape)
    weights = jax.nn.softmax(jnp.where(seen, s, hidden(dtype)), -1)
    if dropout:
        kept = keep_all(Tiling.of(q, k, visible, dropout), key, s.shape, 1 - dropout).astype(dtype) / (1 - dropout)
        weights = jnp.where(jnp.any(seen, -1, keepdims=True), weights * kept, weights)
    return product("bkgqs,bksd->bkgqd", weights, v, dtype).astype(q.dtype)


def attention_forward(q, k, v, bias, mask, segments, key, *, causal, window, scale, softcap, dropout):
    operands, visible = Operands(q, k, v, bias, mask, segments, key), Visible.of(causal, window)
    tiling, dtype = Tiling.of(q, k, visible, dropout), accumulation_dtype(q)
    padded = _padded(operands, tiling)

    def step(rows: Rows, begin: Array) -> tuple[Rows, None]:
        tile = Tile(begin, tiling.shape)
        s, _ = _scores(tile, padded, visible, k.shape[2], scale, softcap)  # 1  scale q kᵀ, capped, + bias, hidden
        before = Rows(*(tile.cut(x, QUERIES) for x in rows))
        m = lax.max(before.m, jnp.max(s, -1, initial=jnp.finfo(dtype).min))  # 2
        p = lax.exp(s - m[..., None])  # 3
        shrink = lax.exp(before.m - m)
        total = before.total * shrink + jnp.sum(p, -1)  # 4
        p, _ = _dropped(tile, p, key, dropout)  # 5
        pv = product("bkgqs,bksd->bkgqd", p, tile.cut(padded.v, KEYS), dtype)  # 6
        after = Rows(m, total, before.weighted * shrink[..., None] + pv)
        return Rows(*(tile.put(x, part, QUERIES) for x, part in zip(rows, after, strict=True))), None

    rows, _ = lax.scan(step, _no_rows(padded.q, v.shape[-1], dtype), jnp.asarray(tiling.steps))
    m, total, weighted = (x[:, :, :, : q.shape[3]] for x in rows)
    blind = m <= hidden(dtype)  # 7  rows that see no key: all have the same weight
    out = jnp.where(blind[..., None], _mean_of_values(v, dtype), weighted / total[..., None])  # 8
    lse = jnp.where(blind, jnp.inf, m + jnp.log(total))  # 9
    out = out.astype(q.dtype)
    return out, (operands, out, lse)


def attention_backward(residuals, dout, *, causal, window, scale, softcap, dropout, wanted):
    """With the weights P = exp(s - lse), out = P v and dP = dout vᵀ:

    ds = P (dP - Σ_keys P dP) = P (dP - Σ_size dout out)
    """
    operands, out, lse = residuals
    q, k, v, key = operands.q, operands.k, operands.v, operands.key
    visible, dtype = Visible.of(causal, window), lse.dtype
    tiling = Tiling.of(q, k, visible, dropout)
    padded = _padded(operands, tiling)
    delta = jnp.sum(dout.astype(dtype) * out.astype(dtype), -1)
    rows = [tiling.pad(x, 3, 2) for x in (dout, lse, delta)]

    def step(found: list[Array | None], begin: Array) -> tuple[list[Array | None], None]:
        tile = Tile(begin, tiling.shape)
        q_i, k_j, v_j = tile.cut(padded.q, QUERIES), tile.cut(padded.k, KEYS), tile.cut(padded.v, KEYS)
        dout_i, lse_i, delta_i = (tile.cut(x, QUERIES) for x in rows)
        s, slope = _scores(tile, padded, visible, k.shape[2], scale, softcap)
        p = lax.exp(s - lse_i[..., None])  # 0 in rows that see no key, by 9
        dropped, kept = _dropped(tile, p, key, dropout)
        dv = product("bkgqs,bkgqd->bksd", dropped, dout_i, dtype)  # of 6
        dp = product("bkgqd,bksd->bkgqs", dout_i, v_j, dtype)  # of 6
        dp = dp if kept is None else dp * kept  # of 5
        dbias = p * (dp - delta_i[..., None])  # of 3, 4 and 8
        ds = scale * (dbias if slope is None else dbias * slope)  # of 1
        dq = product("bkgqs,bksd->bkgqd", ds, k_j, dtype)  # of 1
        dk = product("bkgqs,bkgqd->bksd", ds, q_i, dtype)  # of 1
        parts = (dq, QUERIES), (dk, KEYS), (dv, KEYS), (dbias, PAIRS)
        pairs = zip(found, parts, strict=True)
        return [None if x is None else tile.add(x, part, axes) for x, (part, axes) in pairs], None

    targets = (padded.q, padded.k, padded.v, padded.bias)
    start = [
        lax.full_like(x, 0, dtype) if on and x is not None else None for x, on in zip(targets, wanted, strict=False)
    ]
    found, _ = lax.scan(step, start, jnp.asarray(tiling.steps))
    pairs = zip(found, (q, k, v, operands.bias), strict=True)
    dq, dk, dv, dbias = (None if x is None else x[tuple(map(slice, like.shape))] for x, like in pairs)
    if dv is not None:
        blind = jnp.where((lse == jnp.inf)[..., None], dout.astype(dtype), 0)
        dv = dv + jnp.sum(blind, (2, 3))[:, :, None] / max(k.shape[2], 1)  # of 8
    return dq, dk, dv, dbias, None, None, None


tiled_attention = block(attention_forward, attention_backward, plain=plain_attention, name="attention")


# ---------------------------------------------------------------- of a tile


def hidden(dtype: Any) -> Any:
    """The score of a key that is not seen: below all others, yet finite, so that it can be subtracted from itself."""
    return np.asarray(np.finfo(dtype).min / 2, dtype)


def _scores(
    tile: Tile, operands: Operands, visible: Visible, keys: int, scale: float, softcap: float | None
) -> tuple[Array, Array | None]:
    """The scores of a tile, and the slope of the cap."""
    q, k = tile.cut(operands.q, QUERIES), tile.cut(operands.k, KEYS)
    dtype, slope = accumulation_dtype(q), None
    s = scale * product("bkgqd,bksd->bkgqs", q, k, dtype)
    if softcap is not None:
        y = lax.tanh(s / softcap)
        s, slope = softcap * y, 1 - y**2
    if operands.bias is not None:
        s = s + jnp.broadcast_to(tile.cut(operands.bias, PAIRS).astype(dtype), s.shape)
    seen = _seen(tile, operands, visible, keys)
    return s if seen is None else jnp.where(jnp.broadcast_to(seen, s.shape), s, hidden(dtype)), slope


def _seen(tile: Tile, operands: Operands, visible: Visible, keys: int) -> Array | None:
    """Which keys each query of a tile sees, of rank 5; None: all. Those that pad the last tile are seen by none."""
    rows, columns = tile.positions()
    conditions = [visible.mask(rows, columns)]
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


def _dropped(tile: Tile, p: Array, key: Array | None, dropout: float) -> tuple[Array, Array | None]:
    """The weights after dropout, and what they were multiplied with."""
    if not dropout:
        return p, None
    kept = keep_mask(key, tile.begin, p.shape, 1 - dropout).astype(p.dtype) / (1 - dropout)
    return p * kept, kept


# ---------------------------------------------------------------- of the whole


def _padded(operands: Operands, tiling: Tiling) -> Operands:
    """The operands of whole tiles."""
    q, k, v, bias, mask, segments, key = operands
    q, k, v = tiling.pad(q, 3, 2), tiling.pad(k, 2, 3), tiling.pad(v, 2, 3)
    bias, mask = (None if x is None else tiling.pad(tiling.pad(x, 3, 2), 4, 3) for x in (bias, mask))
    segments = None if segments is None else (tiling.pad(segments[0], 1, 2), tiling.pad(segments[1], 1, 3))
    return Operands(q, k, v, bias, mask, segments, key)


def _no_rows(q: Array, size: int, dtype: Any) -> Rows:
    zeros = lax.full_like(q[..., 0], 0, dtype)
    return Rows(zeros + jnp.finfo(dtype).min, zeros, jnp.broadcast_to(zeros[..., None], (*zeros.shape, size)))


def _mean_of_values(v: Array, dtype: Any) -> Array:
    return (jnp.sum(v, 2, dtype=dtype) / max(v.shape[2], 1))[:, :, None, None]  # (batch, kv heads, 1, 1, size)
