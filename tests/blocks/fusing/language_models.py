"""Attention of families of language models, in the form in which each is usually written.

Shapes, if not said otherwise: x (batch, time, width), w (width, 3 width) or as each function says.
"""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(1)
B, T, N, D = 2, 6, 2, 4
X = RNG.normal(size=(B, T, N * D))
OTHER = RNG.normal(size=(B, T + 2, N * D))  # of an encoder, or a memory
QKV, OUT = RNG.normal(size=(N * D, 3 * N * D)) / 3, RNG.normal(size=(N * D, N * D)) / 3
LAYER = [X, QKV, OUT]
HEADS_FIRST = [RNG.normal(size=(B, N, T, D)) for _ in range(3)]
HEADS_LAST = [x.transpose(0, 2, 1, 3) for x in HEADS_FIRST]
GROUPED = [RNG.normal(size=(B, T, 2 * N, D)), *HEADS_LAST[1:]]
PADDING = np.arange(T) < np.array([[T], [T - 2]])  # (batch, keys): two sequences, one of which is shorter


def split_heads(x, n=N):
    return x.reshape(*x.shape[:-1], n, -1).swapaxes(-3, -2)  # (batch, heads, time, size)


def merge_heads(x):
    x = x.swapaxes(-3, -2)
    return x.reshape(*x.shape[:-2], -1)


def qkv_of(x, w):
    return map(split_heads, jnp.split(x @ w, 3, -1))


def tril(t=T):
    return jnp.tril(jnp.ones((t, t), bool))


def rotated(x):
    """Rotary positions of (batch, time, heads, size), halves turned against each other."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1], dtype=x.dtype)[:, None] / 100.0 ** (jnp.arange(half, dtype=x.dtype) / half)
    sin, cos = (f(angle)[None, :, None].astype(x.dtype) for f in (jnp.sin, jnp.cos))
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def nano_gpt(x, w, out):
    q, k, v = qkv_of(x, w)
    att = (q @ k.swapaxes(-2, -1)) * (1.0 / jnp.sqrt(k.shape[-1]))
    mask = jnp.tril(jnp.ones((T, T))).reshape(1, 1, T, T)
    att = jax.nn.softmax(jnp.where(mask == 0, float("-inf"), att), axis=-1)
    return merge_heads(att @ v) @ out


def gpt2_by_numbers(x, w, out):
    """As OpenAI wrote it: scores times a mask of 1 and 0, less a large number times what it leaves."""
    q, k, v = qkv_of(x, w)
    s = jnp.matmul(q, k.swapaxes(-2, -1)) / jnp.sqrt(float(D))
    i, j = jnp.arange(T)[:, None], jnp.arange(T)
    b = (i >= j).astype(s.dtype).reshape(1, 1, T, T)
    s = s * b - 1e10 * (1 - b)
    return merge_heads(jax.nn.softmax(s) @ v) @ out


def gpt_j(q, k, v):
    """Rotary positions; Flax's weights with a mask that became a bias, as in Hugging Face."""
    mask = linen.combine_masks(linen.make_causal_mask(jnp.ones((B, T))), jnp.asarray(PADDING)[:, None, None])
    bias = jax.lax.select(mask > 0, jnp.full(mask.shape, 0.0), jnp.full(mask.shape, -1e9)).astype(q.dtype)
    weights = linen.dot_product_attention_weights(rotated(q), rotated(k), bias=bias, dtype=q.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, v)


def gpt_neo_local(q, k, v):
    """Unscaled, in float32 at least; a window of three, by one band less another."""
    seen = jnp.bitwise_xor(tril(), jnp.tril(tril(), -3))
    s = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    s = jnp.where(seen[None, None], s, jnp.finfo(s.dtype).min)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(s, axis=-1).astype(v.dtype), v)


def llama(q, k, v):
    """Rotary positions, kv heads repeated for their groups, an additive mask by `triu`."""
    q, k = rotated(q), rotated(k)
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    mask = jnp.triu(jnp.full((T, T), -jnp.inf), k=1)
    scores = jnp.matmul(q, k.swapaxes(2, 3)) / jnp.sqrt(D) + mask.astype(q.dtype)
    return jnp.matmul(jax.nn.softmax(scores, -1), v).swapaxes(1, 2).reshape(B, T, -1)


def llama_grouped_by_broadcasting(q, k, v):
    k, v = (jnp.broadcast_to(x[:, :, :, None], (B, T, N, 2, D)).reshape(B, T, 2 * N, D) for x in (k, v))
    s = jnp.einsum("bthd,bshd->bhts", rotated(q), rotated(k)) * D**-0.5
    s = jnp.where(jnp.arange(T)[:, None] < jnp.arange(T)[None], jnp.finfo(s.dtype).min, s)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(s), v)


def mistral(q, k, v):
    i = jnp.arange(T)
    mask = jnp.logical_and(i[None] <= i[:, None], i[None] > i[:, None] - 3)
    s = jnp.einsum("bthd,bshd->bhts", rotated(q), rotated(k)) / D**0.5 + jnp.where(mask, 0.0, -1e9).astype(q.dtype)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(s), v)


def gemma(q, k, v):
    """Grouped queries, a soft cap, a window, and a mask chosen last."""
    q = rotated(q * D**-0.5).reshape(B, T, N, 2, D)
    logits = jnp.einsum("BTKGH,BSKH->BTKGS", q, rotated(k))
    logits = jnp.tanh(logits / 50.0) * 50.0
    i = jnp.arange(T)
    mask = (i[:, None] >= i) * (i[:, None] - i < 4)
    logits = jnp.where(mask[None, :, None, None, :], logits, -2.3819763e38)
    return jnp.einsum("BTKGS,BSKH->BTKGH", jax.nn.softmax(logits), v).reshape(B, T, 2 * N, D)


def qwen(q, k, v):
    """Queries and keys normalised along their size, before the rotation."""

    def normed(x):
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)

    q, k = rotated(normed(q)), rotated(normed(k))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, mask=jnp.asarray(PADDING)[:, None, None])


def t5(q, k, v, table):
    """Unscaled; a bias looked up by the distance of query and key, (distances, heads)."""
    distance = jnp.arange(T)[None] - jnp.arange(T)[:, None]
    bias = table[jnp.clip(distance + T - 1, 0, 2 * T - 2)].transpose(2, 0, 1)[None]
    s = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(s), v)


def t5_with_padding(q, k, v, table):
    """The bias and the mask are added to each other first."""
    distance = jnp.arange(T)[None] - jnp.arange(T)[:, None] + T - 1
    bias = table[distance].transpose(2, 0, 1)[None]
    bias = bias + jnp.where(jnp.asarray(PADDING)[:, None, None], 0.0, -1e10).astype(q.dtype)
    return linen.dot_product_attention(q * D**0.5, k, v, bias=bias)


def bert(x, w, out):
    q, k, v = qkv_of(x, w)
    extended = (1.0 - jnp.asarray(PADDING, x.dtype)[:, None, None]) * jnp.finfo(jnp.float32).min
    probabilities = jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(D) + extended)
    return merge_heads(probabilities @ v) @ out


def distil_bert(x, w, out):
    q, k, v = qkv_of(x, w)
    mask = jnp.broadcast_to((jnp.asarray(PADDING, jnp.int32) == 0).reshape(B, 1, 1, T), (B, N, T, T))
    scores = jnp.where(mask, -jnp.inf, jnp.matmul(q / jnp.sqrt(D), k.transpose(0, 1, 3, 2)))
    return merge_heads(jnp.matmul(jax.nn.softmax(scores), v)) @ out


def deberta(q, k, v, table):
    """Content to content, content to position and position to content, the latter two taken by distance."""
    distance = jnp.clip(jnp.arange(T)[:, None] - jnp.arange(T)[None] + T - 1, 0, 2 * T - 2)
    positions = table.T[:, :, None].repeat(D, -1)  # (heads, distances, size)
    to_position = jnp.einsum("bqhd,hrd->bhqr", q, positions)
    from_position = jnp.einsum("bkhd,hrd->bhkr", k, positions)
    index = jnp.broadcast_to(distance, (B, N, T, T))
    relative = jnp.take_along_axis(to_position, index, -1)
    relative += jnp.take_along_axis(from_position, index.swapaxes(-1, -2), -1).swapaxes(-1, -2)
    s = (jnp.einsum("bqhd,bkhd->bhqk", q, k) + relative) / jnp.sqrt(3.0 * D)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(s), v)


def transformer_xl(q, k, v, table):
    """A second product, with the positions, shifted by padding and reshaping it."""
    u, r = table[:N, None, :1], jnp.broadcast_to(table[-T:, :, None], (T, N, D))
    ac = jnp.einsum("ibnd,jbnd->bnij", (q + u[:, 0]).swapaxes(0, 1), k.swapaxes(0, 1))
    bd = jnp.einsum("ibnd,jnd->bnij", q.swapaxes(0, 1), r)
    bd = jnp.pad(bd, ((0, 0), (0, 0), (0, 0), (1, 0))).reshape(B, N, T + 1, T)[:, :, 1:].reshape(bd.shape)
    s = (ac + bd) * D**-0.5
    s = jnp.where(jnp.triu(jnp.ones((T, T), bool), 1)[None, None], -1e30, s)
    return jnp.einsum("bnij,jbnd->ibnd", jax.nn.softmax(s), v.swapaxes(0, 1)).swapaxes(0, 1)


def bart_cross(x, y, w, out):
    """The decoder's queries and the encoder's keys, heads folded into the batch, as in fairseq."""
    wq, wk, wv = jnp.split(w, 3, -1)
    q, k, v = (
        (a @ b).reshape(B, -1, N, D).swapaxes(1, 2).reshape(B * N, -1, D) for a, b in ((x, wq), (y, wk), (y, wv))
    )
    s = jax.lax.batch_matmul(q * D**-0.5, k.swapaxes(1, 2)).reshape(B, N, T, -1)
    s = s + jnp.where(jnp.arange(T + 2) < T, 0.0, -1e9)[None, None, None].astype(x.dtype)
    p = jax.nn.softmax(s.reshape(B * N, T, -1))
    return jax.lax.batch_matmul(p, v).reshape(B, N, T, D).swapaxes(1, 2).reshape(x.shape) @ out


def whisper(x, w, out):
    """The scale is divided among queries and keys."""
    q, k, v = jnp.split(x @ w, 3, -1)
    scale = (q.shape[-1] // N) ** -0.25
    q = q.reshape(B, T, N, D).transpose(0, 2, 1, 3) * scale
    k = k.reshape(B, T, N, D).transpose(0, 2, 3, 1) * scale
    qk = q @ k + jnp.triu(jnp.full((T, T), -jnp.inf), 1).astype(x.dtype)
    p = jax.nn.softmax(qk, axis=-1).astype(q.dtype)
    return (p @ v.reshape(B, T, N, D).transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3).reshape(x.shape) @ out


def alibi(q, k, v):
    """BLOOM and MPT: a slope for each head times the distance."""
    slopes = 2.0 ** -jnp.arange(1.0, N + 1)
    bias = -slopes[:, None, None] * (jnp.arange(T)[:, None] - jnp.arange(T)[None])
    s = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(D) + bias[None].astype(q.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(tril()[None, None], s, -jnp.inf)), v)


def palm(q, k, v):
    """One head of keys and values for all heads of queries."""
    k, v = k[:, :, 0], v[:, :, 0]
    sim = jnp.einsum("bihd,bjd->bhij", rotated(q) * D**-0.5, k)
    sim = jnp.where(tril()[None, None], sim, -1e10)
    return jnp.einsum("bhij,bjd->bihd", jax.nn.softmax(sim - jax.lax.stop_gradient(sim.max(-1, keepdims=True))), v)


def deepseek(q, c, w, r):
    """Keys and values of a latent; a part of each key is rotated and shared among the heads."""
    kv = jnp.einsum("btc,chd->bthd", c, w)
    k, v = jnp.split(kv, 2, -1)
    shared = jnp.broadcast_to(rotated(r[:, :, None]), (B, T, N, r.shape[-1]))
    q = jnp.concatenate([q, rotated(q)[..., : r.shape[-1]]], -1)
    s = jnp.einsum("bqhd,bkhd->bhqk", q, jnp.concatenate([k, shared], -1)) * q.shape[-1] ** -0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(tril()[None, None], s, -1e30)), v)


def deepseek_two_products(q, c, w, r):
    """The same with a product of its own for the rotated part."""
    k, v = jnp.split(jnp.einsum("btc,chd->bthd", c, w), 2, -1)
    s = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    s += jnp.einsum("bqhd,bkd->bhqk", rotated(q)[..., : r.shape[-1]], rotated(r[:, :, None])[:, :, 0])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(tril()[None, None], s * 0.4, -1e30)), v)


def gpt_oss_sinks(q, k, v):
    """A score of no key, for each head, that takes its part of the weights."""
    s = jnp.where(tril()[None, None], jnp.einsum("bqhd,bkhd->bhqk", q, k), -jnp.inf)
    sink = jnp.broadcast_to(jnp.arange(1.0, N + 1, dtype=q.dtype)[None, :, None, None], (B, N, T, 1))
    weights = jax.nn.softmax(jnp.concatenate([s, sink], -1))[..., :-1]
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def packed(q, k, v):
    """Several documents in a row: a token sees its own."""
    documents = jnp.cumsum(jnp.asarray([1, 0, 0, 1, 0, 0]))
    mask = (documents[:, None] == documents[None]) & tril()
    s = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(D)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(mask[None, None], s, -1e30)), v)


def decoding(q, k, v):
    """One query against a cache of keys of which the later ones are not written yet."""
    index = jnp.asarray(3)
    keys, values = (jax.lax.dynamic_update_slice(x, x[:, :1] * 2, (0, index, 0, 0)) for x in (k, v))
    mask = (jnp.arange(T) <= index)[None, None, None]
    s = jnp.einsum("bqhd,bkhd->bhqk", q[:, :1], keys) * D**-0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(mask, s, jnp.finfo(s.dtype).min)), values)


def fed_in_chunks(q, k, v):
    """Queries that begin later than the keys."""
    s = jnp.einsum("bqhd,bkhd->bhqk", q[:, 4:], k) * 0.5
    seen = (jnp.arange(2) + 4)[:, None] >= jnp.arange(T)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(seen[None, None], s, -1e30)), v)


TABLE = RNG.normal(size=(2 * T - 1, N))
LATENT = [HEADS_LAST[0], RNG.normal(size=(B, T, 3)), RNG.normal(size=(3, N, 2 * D)), RNG.normal(size=(B, T, 2))]
