"""Attention as people write it, all of which `fb.fusions` must say is taken.

Shapes, if not said otherwise: q, k, v of (batch, time, heads, size).
"""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

RNG = np.random.default_rng(0)
B, T, N, D = 2, 6, 2, 4
BATCHED = [RNG.normal(size=(B, T, N, D)) for _ in range(3)]
HEADS_FIRST = [x.transpose(0, 2, 1, 3) for x in BATCHED]
ONE = [x[0, :, 0] for x in BATCHED]
GROUPED = [RNG.normal(size=(B, T, 2 * N, D)), *BATCHED[1:]]
MASK = RNG.random((B, 1, T, T)) > 0.4
MASK[..., 0] = True
BIAS = RNG.normal(size=(N, T, T))


def scores(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


def values(p, v):
    return jnp.einsum("bhqk,bkhd->bqhd", p, v)


def causal(t=T):
    return jnp.tril(jnp.ones((t, t), bool))


def plain(q, k, v):
    return values(jax.nn.softmax(scores(q, k) / jnp.sqrt(D)), v)


def scaled_before(q, k, v):
    return values(jax.nn.softmax(scores(q * D**-0.5, k)), v)


def unscaled(q, k, v):
    return values(jax.nn.softmax(scores(q, k)), v)


def matmul(q, k, v):
    return jax.nn.softmax(q @ k.swapaxes(-1, -2) * 0.5) @ v


def of_one_head(q, k, v):
    return jax.nn.softmax(q @ k.T / 2.0) @ v


def transposed_product(q, k, v):
    return (v.T @ jax.nn.softmax(k @ q.T / 2.0, axis=0)).T


def masked_where(q, k, v):
    return values(jax.nn.softmax(jnp.where(causal()[None, None], scores(q, k) / 2, -1e30)), v)


def masked_inverted(q, k, v):
    s = jnp.where(jnp.logical_not(causal())[None, None], jnp.finfo(q.dtype).min, scores(q, k) / 2)
    return values(jax.nn.softmax(s), v)


def masked_by_comparison(q, k, v):
    i = jnp.arange(T)
    return values(jax.nn.softmax(jnp.where((i[:, None] >= i[None])[None, None], scores(q, k), -jnp.inf)), v)


def masked_by_adding(q, k, v):
    bias = jnp.where(causal(), 0.0, -1e9).astype(q.dtype)
    return values(jax.nn.softmax(scores(q, k) / 2 + bias[None, None]), v)


def padded_by_adding(q, k, v):
    bias = (1.0 - jnp.asarray(MASK, q.dtype)) * -1e9
    return values(jax.nn.softmax(scores(q, k) / 2 + bias), v)


def masked_by_a_constant(q, k, v):
    return values(jax.nn.softmax(jnp.where(jnp.asarray(MASK), scores(q, k), -1e30)), v)


def masked_by_floating_positions(q, k, v):
    i = jnp.arange(T, dtype=q.dtype)
    return jax.nn.softmax(jnp.where(i[:, None] - 0.5 >= i[None] - 1.0, q @ k.T, -jnp.inf)) @ v


def numbers_of_operations(q, k, v):
    scale, fill = jax.lax.div(jnp.asarray(7), jnp.asarray(4)).astype(q.dtype), -1.0 / jnp.zeros((), q.dtype)
    return jax.nn.softmax(jnp.where(causal(), q @ k.T * scale, fill)) @ v


def window(q, k, v):
    i = jnp.arange(T)
    seen = (i[:, None] >= i[None]) & (i[:, None] - 2 <= i[None])
    return values(jax.nn.softmax(jnp.where(seen[None, None], scores(q, k), -1e30)), v)


def scaled_after_the_mask(q, k, v):
    return values(jax.nn.softmax(jnp.where(causal()[None, None], scores(q, k), -1e30) * 0.5), v)


def biased(q, k, v):
    return values(jax.nn.softmax(scores(q, k) / 2 + jnp.asarray(BIAS, q.dtype)[None]), v)


def bias_subtracted_and_scaled(q, k, v):
    return values(jax.nn.softmax((scores(q, k) - jnp.asarray(BIAS, q.dtype)[None]) * 0.5), v)


def softmax_by_hand(q, k, v):
    s = scores(q, k) / 2
    e = jnp.exp(s - jnp.max(s, -1, keepdims=True))
    return values(e / jnp.sum(e, -1, keepdims=True), v)


def softmax_without_maximum(q, k, v):
    e = jnp.exp(scores(q, k) / 2)
    return values(e / e.sum(-1, keepdims=True), v)


def by_logsumexp(q, k, v):
    s = scores(q, k) / 2
    return values(jnp.exp(s - jax.nn.logsumexp(s, -1, keepdims=True)), v)


def by_log_softmax(q, k, v):
    return values(jnp.exp(jax.nn.log_softmax(scores(q, k) / 2)), v)


def soft_capped(q, k, v):
    s = 5.0 * jnp.tanh(scores(q, k) / 2 / 5.0)
    return values(jax.nn.softmax(jnp.where(causal()[None, None], s, -1e30)), v)


def grouped(q, k, v):
    q = q.reshape(B, T, N, 2, D)
    s = jnp.einsum("bqhgd,bkhd->bhgqk", q, k)
    s = jnp.where(causal()[None, None, None], s, -1e30)
    return jnp.einsum("bhgqk,bkhd->bqhgd", jax.nn.softmax(s), v).reshape(B, T, 2 * N, D)


def repeated_heads(q, k, v):
    return plain(q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2))


def low_precision_product(q, k, v):
    s = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=q.dtype)
    return values(jax.nn.softmax(s.astype(jnp.float64)).astype(v.dtype), v)


def divided_by_numbers_of_heads_before_the_mask(q, k, v):
    s = scores(q, k) / jnp.asarray([1.0, 3.0], q.dtype)[None, :, None, None]
    return values(jax.nn.softmax(jnp.where(causal()[None, None], s, -1e30)), v)


def weighted_by_keys_within_a_cap(q, k, v):
    s = scores(q, k) * jnp.arange(1.0, T + 1, dtype=q.dtype)
    return values(jax.nn.softmax(5.0 * jnp.tanh(s / 5.0)), v)


def jitted(q, k, v):
    return jax.jit(lambda q, k, v: values(jax.jit(jax.nn.softmax)(scores(q, k)), v))(q, k, v)


def mapped(q, k, v):
    return jax.vmap(jax.vmap(of_one_head, 1, 1))(q, k, v)


def scanned(q, k, v):
    mask = causal()[None, None]

    def layer(x, _):
        return values(jax.nn.softmax(jnp.where(mask, scores(x, k), -1e30)), v), None

    return jax.lax.scan(layer, q, None, length=2)[0]


def checkpointed(q, k, v):
    return jax.checkpoint(masked_where)(q, k, v)


def in_a_branch(q, k, v):
    return jax.lax.cond(jnp.sum(q) > 1e6, lambda: q, lambda: masked_where(q, k, v))


def jax_causal(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def jax_with_everything(q, k, v):
    bias, mask = jnp.asarray(BIAS, q.dtype)[None], jnp.asarray(MASK)
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=0.3, local_window_size=(2, 1))


def jax_grouped(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def linen_masked(q, k, v):
    mask = linen.make_causal_mask(jnp.ones((B, T)))
    return linen.dot_product_attention(q, k, v, mask=mask)


def linen_biased(q, k, v):
    return linen.dot_product_attention(q, k, v, bias=jnp.asarray(BIAS, q.dtype)[None])


def nnx_masked(q, k, v):
    return nnx.dot_product_attention(q, k, v, mask=jnp.asarray(MASK))


def equinox_module(q, k, v):
    module = eqx.nn.MultiheadAttention(N, D, key=jax.random.key(0), dtype=q.dtype)
    return module(q, k, v, mask=causal())


TAKEN = [
    (plain, BATCHED), (scaled_before, BATCHED), (unscaled, BATCHED), (matmul, HEADS_FIRST), (of_one_head, ONE),
    (transposed_product, ONE), (masked_where, BATCHED), (masked_inverted, BATCHED), (masked_by_comparison, BATCHED),
    (masked_by_adding, BATCHED), (padded_by_adding, BATCHED), (masked_by_a_constant, BATCHED), (window, BATCHED),
    (masked_by_floating_positions, ONE), (numbers_of_operations, ONE),
    (scaled_after_the_mask, BATCHED), (biased, BATCHED), (bias_subtracted_and_scaled, BATCHED),
    (softmax_by_hand, BATCHED), (softmax_without_maximum, BATCHED), (by_logsumexp, BATCHED), (by_log_softmax, BATCHED),
    (soft_capped, BATCHED), (grouped, GROUPED), (repeated_heads, GROUPED), (low_precision_product, BATCHED),
    (divided_by_numbers_of_heads_before_the_mask, BATCHED), (weighted_by_keys_within_a_cap, BATCHED),
    (jitted, BATCHED), (mapped, BATCHED), (scanned, BATCHED), (checkpointed, BATCHED), (in_a_branch, BATCHED),
    (jax_causal, BATCHED), (jax_with_everything, BATCHED), (jax_grouped, GROUPED), (linen_masked, BATCHED),
    (linen_biased, BATCHED), (nnx_masked, BATCHED), (equinox_module, ONE),
]  # fmt: skip
# Those whose mask is known to be a band of positions: tiles outside of it are not visited.
BANDS = {
    "masked_where", "masked_by_comparison", "masked_by_adding", "window", "scaled_after_the_mask", "soft_capped",
    "grouped", "scanned", "checkpointed", "in_a_branch", "jax_causal", "jax_grouped", "linen_masked", "equinox_module",
    "numbers_of_operations", "divided_by_numbers_of_heads_before_the_mask",
}  # fmt: skip
