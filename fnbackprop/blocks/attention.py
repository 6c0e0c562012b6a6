"""`attention` for users: its arguments checked, and folded as the tiled block takes them."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from .tiled_attention import tiled_attention

Array = jax.Array


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    bias: Array | None = None,
    segments: Array | tuple[Array, Array] | None = None,
    window: int | tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    key: Array | None = None,
) -> Array:
    """softmax(scale q kᵀ + bias) v for each head, without ever holding the scores of all queries and keys.

    It works under `jax.grad` and `fb.grad` alike. Softmax and sums are in float32 (float64 for float64), whatever the
    dtype of the operands; a query that sees no key gets the mean of all values, as equal scores would give.

    Args:
        q: (..., queries, heads, size).
        k, v: (..., keys, kv heads, size); the heads are a multiple of the kv heads, and each kv head serves that many
            query heads in a row (grouped queries). v may have another size.
        causal: whether query i sees the keys up to i alone.
        mask: boolean, True where a key is seen; broadcast to (..., heads, queries, keys).
        bias: added to the scores; broadcast to (..., heads, queries, keys). It gets a gradient.
        segments: integers of (..., queries) and (..., keys), or one array for both: a query sees its own segment.
        window: (left, right): query i sees the keys from i - left to i + right, None for no bound; or a number for
            both.
        scale: the factor of the scores; 1 / sqrt(size) if not given.
        softcap: the number c, to make the scores c tanh(scores / c) before the bias.
        dropout: the rate at which weights are dropped.
        key: its random key, without which nothing is dropped.
    Returns:
        (..., queries, heads, size of v), in the dtype of q.
    Raises:
        ValueError: shapes do not fit. TypeError: a mask that is not boolean, segments that are not integers, or
            complex numbers.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> q = k = v = jnp.arange(6.0).reshape(3, 1, 2)           # 3 positions, 1 head of size 2
        >>> print(fb.attention(q, k, v, causal=True)[0, 0], jax.grad(lambda v: fb.attention(q, k, v).sum())(v)[1, 0, 0])
        [0. 1.] 0.1875...
    """
    _require_fit(q, k, v, mask, bias, segments, dropout)
    heads, kv_heads = q.shape[-2], k.shape[-2]
    lead, group = q.shape[:-3], heads // max(kv_heads, 1)
    dtype = jnp.result_type(q, k, v)
    folded = (
        x.astype(dtype).reshape(math.prod(lead), *x.shape[-3:]) if len(lead) != 1 else x.astype(dtype)
        for x in (q, k, v)
    )
    q_rows, k_rows, v_rows = folded  # (batch, time, heads, size)
    q_rows = _split(q_rows, 2, kv_heads, group)  # (batch, time, kv heads, group, size)
    pairs = (None if x is None else _pairs(x, lead, kv_heads, group) for x in (bias, mask))
    out = tiled_attention(
        q_rows, k_rows, v_rows, *pairs, _folded_segments(segments, lead), key if dropout else None,
        causal=causal, window=(window, window) if isinstance(window, int) else window,
        scale=1 / math.sqrt(q.shape[-1]) if scale is None else float(scale),
        softcap=softcap, dropout=float(dropout) if key is not None else 0.0,
    )  # fmt: skip
    return out.reshape(*q.shape[:-1], v.shape[-1]).astype(q.dtype)


def _split(x: Array, axis: int, kv_heads: int, group: int) -> Array:
    """An axis of heads as (kv heads, group)."""
    if group == 1:
        return jnp.expand_dims(x, axis + 1)
    return x.reshape(*x.shape[:axis], kv_heads, group, *x.shape[axis + 1 :])


def _pairs(x: Array, lead: tuple[int, ...], kv_heads: int, group: int) -> Array:
    """A mask or bias as (batch, kv heads, group, queries, keys), each axis whole or of size 1."""
    x = x.reshape((1,) * (len(lead) + 3 - x.ndim) + x.shape)
    *own, heads, queries, keys = x.shape
    if tuple(own) != lead and math.prod(own) != 1:
        x = jnp.broadcast_to(x, (*lead, heads, queries, keys))
    x = x.reshape(math.prod(x.shape[: len(lead)]), heads, queries, keys)
    return x[:, :, None] if heads == 1 else _split(x, 1, kv_heads, group)


def _folded_segments(segments: Any, lead: tuple[int, ...]) -> tuple[Array, Array] | None:
    if segments is None:
        return None
    of_q, of_k = segments if isinstance(segments, tuple | list) else (segments, segments)
    return of_q.reshape(math.prod(lead), of_q.shape[-1]), of_k.reshape(math.prod(lead), of_k.shape[-1])


def _require_fit(q: Array, k: Array, v: Array, mask: Any, bias: Any, segments: Any, dropout: float) -> None:
    shapes = f"q {q.shape}, k {k.shape}, v {v.shape}"
    if q.ndim < 3 or k.shape[:-3] != q.shape[:-3] or k.shape[:-1] != v.shape[:-1] or k.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"attention: q must be (..., queries, heads, size), k and v (..., keys, kv heads, size), but got {shapes}."
        )
    if q.shape[-2] % max(k.shape[-2], 1):
        raise ValueError(f"attention: {q.shape[-2]} query heads are no multiple of {k.shape[-2]} kv heads ({shapes}).")
    whole = (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3])
    for name, x in (("mask", mask), ("bias", bias)):
        if x is not None and not _broadcasts(x.shape, whole):
            raise ValueError(
                f"attention: the {name} of shape {x.shape} is not broadcast to (..., heads, queries, keys), {whole}."
            )
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(
            f"attention: the mask must be boolean, True where a key is seen, got {mask.dtype}; as bias it is added."
        )
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (q, k, v)) or jnp.iscomplexobj(bias):
        dtypes = f"q {q.dtype}, k {k.dtype}, v {v.dtype}" + ("" if bias is None else f", bias {bias.dtype}")
        raise TypeError(f"attention: q, k, v and the bias must be real floating numbers, got {dtypes}.")
    of_q, of_k = segments if isinstance(segments, tuple | list) else (segments, segments)
    for x, like in ((of_q, q), (of_k, k)) if segments is not None else ():
        if x.shape != like.shape[:-2]:
            raise ValueError(f"attention: segments of shape {x.shape} must be {like.shape[:-2]} ({shapes}).")
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"attention: segments must be integers, got {x.dtype}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"attention: dropout must be from 0 to below 1, got {dropout}.")


def _broadcasts(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    own = (1,) * (len(whole) - len(shape)) + tuple(shape)
    return len(own) == len(whole) and all(a in (1, b) for a, b in zip(own, whole, strict=True))
