"""Attention of families of models of images, sound, molecules and graphs, and of recurrent and retrieval networks."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
from flax import nnx

from .language_models import (
    HEADS_LAST,
    OTHER,
    OUT,
    QKV,
    RNG,
    B,
    D,
    N,
    T,
    X,
    merge_heads,
    qkv_of,
    rotated,
    split_heads,
    tril,
)  # fmt: skip

IMAGE = [RNG.normal(size=(B, 4, 4, N * D)), QKV, OUT]
LATENTS = [RNG.normal(size=(3, N * D)), OTHER, QKV, OUT]
PAIRS = [RNG.normal(size=(B, 3, T, N * D)), QKV, OUT, RNG.normal(size=(T, T, N))]
SCALED = [*HEADS_LAST, RNG.normal(size=(N, 1, 1))]
MIXED = [*HEADS_LAST, RNG.normal(size=(N, N))]
SEQUENCE = [X[0], OTHER[0]]
VECTORS = [X[0, 0], OTHER[0]]
EDGES = RNG.random((T, T)) > 0.5
EDGES[:, 0] = True


def scores(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


def values(p, v):
    return jnp.einsum("bhqk,bkhd->bqhd", p, v)


def vit(x, w, out):
    """A class token before the patches; Equinox's or Flax's module in long form."""
    tokens = jnp.concatenate([jnp.zeros_like(x[:, :1]), x], 1)
    q, k, v = (tokens @ w).reshape(B, T + 1, 3, N, D).transpose(2, 0, 3, 1, 4)
    weights = jax.nn.softmax((q @ k.swapaxes(-2, -1)) * D**-0.5, axis=-1)
    return (weights @ v).swapaxes(1, 2).reshape(B, T + 1, -1) @ out


def swin(x, w, out):
    """Shifted windows, each a sequence; a bias of places in the window, and a mask of windows that wrap around."""
    x = jnp.roll(x, (-1, -1), (1, 2)).reshape(B, 2, 2, 2, 2, N * D).swapaxes(2, 3).reshape(B * 4, 4, N * D)
    q, k, v = (x @ w).reshape(B * 4, 4, 3, N, D).transpose(2, 0, 3, 1, 4)
    region = (jnp.arange(4)[:, None] >= jnp.arange(4)[None]).astype(x.dtype)
    bias = jnp.where(region[:, :, None] == region[:, None], 0.0, -100.0)
    attn = q * D**-0.5 @ k.swapaxes(-2, -1) + jnp.tril(jnp.ones((4, 4), x.dtype))
    attn = attn.reshape(B, 4, N, 4, 4) + bias[None, :, None].astype(x.dtype)
    attn = jax.nn.softmax(attn.reshape(B * 4, N, 4, 4))
    return (attn @ v).swapaxes(1, 2).reshape(B * 4, 4, -1) @ out


def swin2(q, k, v, scale):
    """Cosines, scaled by a number that each head learns."""
    q, k = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    attn = scores(q, k) * jnp.exp(jnp.minimum(scale, jnp.log(100.0)))
    return values(jax.nn.softmax(attn), v)


def diffusion_block(x, w, out):
    """Of all places of an image, by one head, with a residual connection (DDPM)."""
    q, k, v = jnp.split(x @ w, 3, -1)
    weights = jnp.einsum("bhwc,bHWc->bhwHW", q, k) * x.shape[-1] ** -0.5
    weights = jax.nn.softmax(weights.reshape(B, 4, 4, 16)).reshape(B, 4, 4, 4, 4)
    return x + jnp.einsum("bhwHW,bHWc->bhwc", weights, v) @ out


def flattened_image(x, w, out):
    """The same of places in a row, as in Stable Diffusion and non-local networks."""
    q, k, v = jnp.split(x.reshape(B, 16, -1) @ w, 3, -1)
    weights = jax.nn.softmax(jnp.einsum("bic,bjc->bij", q, k) / jnp.sqrt(q.shape[-1]), -1)
    return x + (jnp.einsum("bij,bjc->bic", weights, v) @ out).reshape(x.shape)


def axial(x, w, out):
    """Along the rows of an image, then along its columns."""

    def along(x):
        q, k, v = qkv_of(x, w)
        return merge_heads(jax.nn.softmax(q @ k.swapaxes(-1, -2) * D**-0.5) @ v) @ out

    return along(x) + along(x.swapaxes(1, 2)).swapaxes(1, 2)


def detr(x, w, out):
    """Positions are added to queries and keys, and not to values."""
    wq, wk, wv = jnp.split(w, 3, -1)
    place = jnp.sin(jnp.arange(T, dtype=x.dtype))[:, None]
    q, k, v = split_heads((x + place) @ wq), split_heads((x + place) @ wk), split_heads(x @ wv)
    return merge_heads(jnp.matmul(jax.nn.softmax(jnp.matmul(q * D**-0.5, k.swapaxes(2, 3))), v)) @ out


def clip_text(x, w, out):
    module = nnx.MultiHeadAttention(
        N, N * D, decode=False, use_bias=False, rngs=nnx.Rngs(0), param_dtype=x.dtype, dtype=x.dtype
    )
    return module(x @ w[:, : N * D], mask=nnx.make_causal_mask(jnp.ones((B, T)))) @ out


def sam_decomposed(q, k, v, scale):
    """A bias made of the queries and of places, for rows and columns of an image."""
    rel = jnp.einsum("bqhd,kd->bhqk", q, jnp.sin(jnp.arange(3.0 * D, dtype=q.dtype)).reshape(3, D))
    rel = jnp.broadcast_to(rel[..., None], (*rel.shape, 2)).reshape(B, N, T, T)
    return values(jax.nn.softmax(scores(q, k) * 0.5 + rel), v) * scale.sum()


def perceiver(latents, data, w, out):
    wq, wk, wv = jnp.split(w, 3, -1)
    q = jnp.broadcast_to(split_heads(latents @ wq), (B, N, 3, D))
    s = q @ split_heads(data @ wk).swapaxes(-1, -2) / jnp.sqrt(D)
    return merge_heads(jax.nn.softmax(s) @ split_heads(data @ wv)) @ out


def perceiver_shared_latents(latents, data, w, out):
    """The latents have no axis of the batch."""
    wq, wk, wv = jnp.split(w, 3, -1)
    q, k, v = ((a @ b).reshape(*a.shape[:-1], N, D) for a, b in ((latents, wq), (data, wk), (data, wv)))
    p = jax.nn.softmax(jnp.einsum("qhd,bkhd->bhqk", q, k) * D**-0.5)
    return jnp.einsum("bhqk,bkhd->bqhd", p, v).reshape(B, 3, -1) @ out


def set_transformer(x, w, out):
    """The softmax over the inducing points, the heads by a list."""
    q, k, v = (jnp.split(a, N, -1) for a in jnp.split(x @ w, 3, -1))
    return (
        jnp.concatenate([jax.nn.softmax(a @ b.swapaxes(1, 2)) @ c for a, b, c in zip(q, k, v, strict=True)], -1) @ out
    )


def alphafold(x, w, out, pair):
    """Rows of an alignment, with a bias of pairs and a gate."""
    q, k, v = ((x @ a).reshape(*x.shape[:-1], N, D) for a in jnp.split(w, 3, -1))
    mask = 1e9 * (jnp.where(jnp.arange(T) < T - 1, 1.0, 0.0) - 1.0)[None, None, None, None, :].astype(x.dtype)
    logits = jnp.einsum("brqhc,brkhc->brhqk", q * D**-0.5, k) + mask + jnp.moveaxis(pair, -1, 0)[None, None]
    average = jnp.einsum("brhqk,brkhc->brqhc", jax.nn.softmax(logits), v)
    gate = jax.nn.sigmoid(jnp.einsum("brqc,ch->brqh", x, out[:, :N]))
    return (average * gate[..., None]).reshape(x.shape)


def conformer(q, k, v, scale):
    """Relative positions as a second product (see Transformer-XL), by Flax's weights."""
    place = jnp.cos(jnp.arange(T * N * D, dtype=q.dtype)).reshape(T, N, D)
    bias = jnp.einsum("bqhd,khd->bhqk", q, place) / jnp.sqrt(D)
    return linen.dot_product_attention(q, k, v, bias=bias) * scale.sum()


def graphormer(q, k, v, scale):
    """A bias of distances in a graph; edges that are not there are hidden."""
    bias = jnp.where(jnp.asarray(EDGES), 0.3, 0.0)[None, None].astype(q.dtype)
    s = jnp.where(jnp.asarray(EDGES)[None, None], scores(q, k) * 0.5 + bias, -jnp.inf)
    return values(jax.nn.softmax(s), v) * scale.sum()


def graph_attention(x, w, out):
    """GAT: scores of a pair are a sum of one of each node, not a product."""
    h = x[0] @ w[:, : N * D]
    e = jax.nn.leaky_relu((h @ out[:, :1]) + (h @ out[:, 1:2]).T, 0.2)
    return jax.nn.softmax(jnp.where(jnp.asarray(EDGES), e, -1e9)) @ h


def bahdanau(x, y):
    """Additive scores: a product of a tanh with one vector."""
    s = jnp.tanh(x[:, None] + y[None]) @ jnp.ones(x.shape[-1], x.dtype)
    return jax.nn.softmax(s) @ y


def luong(x, y):
    """Of one state of a decoder and all of the encoder's."""
    return jax.nn.softmax(y @ x) @ y


def hopfield(x, y):
    """Two steps of a modern Hopfield network, keys and values the same patterns."""
    for _ in range(2):
        x = jax.nn.softmax(2.0 * x @ y.T) @ y
    return x


def pointer(x, y):
    """The weights themselves are the result: no attention."""
    return jax.nn.softmax(x @ y.T / 4.0)


def decision_transformer(x, w, out):
    """Layers of Equinox's module, mapped over the batch."""
    module = eqx.nn.MultiheadAttention(N, N * D, use_query_bias=True, key=jax.random.key(0), dtype=x.dtype)
    return jax.vmap(lambda x: module(x, x, x, mask=tril()))(x @ w[:, : N * D]) @ out


def rotary_equinox(x, w, out):
    rope = eqx.nn.RotaryPositionalEmbedding(D, dtype=x.dtype)
    q, k, v = qkv_of(x, w)
    q, k = (jax.vmap(jax.vmap(rope))(a) for a in (q, k))
    return merge_heads(jax.vmap(jax.vmap(lambda q, k, v: jax.nn.softmax(q @ k.T / 2.0) @ v))(q, k, v)) @ out


def talking_heads(q, k, v, mix):
    """Scores of heads are mixed before the softmax."""
    s = jnp.einsum("hg,bhqk->bgqk", mix, scores(q, k))
    return values(jax.nn.softmax(s), v)


def per_query_temperature(q, k, v, scale):
    """log n scaling: a factor of each query, by how many keys it sees."""
    temperature = jnp.log(jnp.arange(2.0, T + 2, dtype=q.dtype))[None, None, :, None]
    return values(jax.nn.softmax(jnp.where(tril()[None, None], scores(q, k) * temperature, -1e30)), v) * scale.sum()


def longformer_blocks(q, k, v, scale):
    """Blocks of queries against their own keys and those before, cut out beforehand."""
    q, k, v = (x.reshape(B, 2, 3, N, D) for x in (q, k, v))
    k, v = (jnp.concatenate([jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))[:, :-1], x], 2) for x in (k, v))
    s = jnp.einsum("bcqhd,bckhd->bchqk", q, k) / jnp.sqrt(D)
    i, j = jnp.arange(3)[:, None], jnp.arange(6)[None] - 3
    s = jnp.where((j <= i)[None, None, None], s, -1e30)
    return jnp.einsum("bchqk,bckhd->bcqhd", jax.nn.softmax(s), v) * scale.sum()


def top_keys(q, k, v, scale):
    """Of each query, the three highest scores alone."""
    s = scores(q, k)
    lowest = jax.lax.top_k(s, 3)[0][..., -1:]
    return values(jax.nn.softmax(jnp.where(s < lowest, -jnp.inf, s)), v) * scale.sum()


def sigmoid_attention(q, k, v, scale):
    """No softmax: passed over."""
    return values(jax.nn.sigmoid(scores(q, k) - jnp.log(T)), v) * scale.sum()


def linear_attention(q, k, v, scale):
    """No scores of pairs: passed over."""
    q, k = jax.nn.softmax(q), jax.nn.softmax(k, axis=1)
    return jnp.einsum("bqhd,bhde->bqhe", q, jnp.einsum("bkhd,bkhe->bhde", k, v)) * scale.sum()


def softmax_of_one_more(q, k, v, scale):
    """exp(s) / (1 + Σ exp(s)): a query may see nothing."""
    s = scores(q, k)
    m = jnp.maximum(jnp.max(s, -1, keepdims=True), 0)
    e = jnp.exp(s - m)
    return values(e / (jnp.exp(-m) + e.sum(-1, keepdims=True)), v) * scale.sum()


def weights_masked_after(q, k, v, scale):
    """Weights are made 0 after the softmax and divided by their sum again (FlashAttention's tests, some GNNs)."""
    p = jax.nn.softmax(scores(q, k)) * jnp.asarray(EDGES)[None, None]
    return values(p / p.sum(-1, keepdims=True), v) * scale.sum()


def rotary_per_layer(x, w, out):
    """Layers by a scan, each a checkpoint, on parameters stacked."""

    def layer(x, w):
        q, k, v = (a.swapaxes(1, 2) for a in qkv_of(x, w))
        p = jax.nn.softmax(jnp.where(tril()[None, None], scores(rotated(q), rotated(k)) / 2, -1e30))
        return x + values(p, v).reshape(x.shape) @ out, None

    return jax.lax.scan(jax.checkpoint(layer), x, jnp.stack([w, w * 0.5]))[0]
