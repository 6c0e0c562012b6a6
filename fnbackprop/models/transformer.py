"""The transformer of GPT-2: pre-norm blocks of multi-head attention and a GELU MLP; causal or not.

    x = token embedding + position embedding
    block:  x = x + projection(attention(qkv(norm1(x))));  x = x + down(gelu(up(norm2(x))))
    logits = head(norm(x))

Sources: A. Vaswani et al., Attention Is All You Need, 2017; A. Radford et al., Language Models are Unsupervised
Multitask Learners (GPT-2), 2019, and its code: pre-norm, GELU by tanh, weights of deviation 0.02 (positions 0.01), and
the two layers that write to the residual stream smaller by sqrt(2 * layers).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from fnbackprop import trees
from fnbackprop.blocks.attention import attention as attention_by_tiles
from fnbackprop.models import dropout as dropouts
from fnbackprop.models import embedding, layer_norm, linear

Params = dict[str, Any]
BY_TILES = 256  # tokens from which attention runs by tiles (`fb.attention`), which is then faster and leaner


@partial(jax.tree_util.register_dataclass, data_fields=["mask"], meta_fields=["causal"])
@dataclass(frozen=True)
class Seen:
    """What the queries of a long sequence may see.

    causal: only what is before them. mask: boolean of (..., 1, time, time), or None.
    """

    causal: bool
    mask: jax.Array | None


def init(
    key: jax.Array,
    *,
    vocabulary: int,
    length: int,
    width: int,
    layers: int,
    mlp_width: int | None = None,
    tied: bool = True,
    scan_layers: bool = False,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Params:
    """{"token", "position", "blocks", "norm"} and, unless the head is tied to the tokens, "head".

    Args:
        key: the random key.
        vocabulary: how many tokens there are.
        length: the longest sequence.
        width: features of the residual stream.
        layers: how many blocks.
        mlp_width: features inside the MLP; 4 * width if not given.
        tied: whether the logits are products with the token embedding, or of a linear head of their own.
        scan_layers: "blocks" is a list of blocks, or, if True, one block whose leaves have a first axis of layers:
            `apply` then scans over it, which compiles one block in place of many. The same key gives the same numbers.
        dtype: of the parameters.
    """
    token_key, position_key, head_key, *block_keys = jax.random.split(key, 3 + layers)
    mlp_width = 4 * width if mlp_width is None else mlp_width
    blocks = [_init_block(k, width, mlp_width, layers, dtype) for k in block_keys]
    params = {
        "token": embedding.init(token_key, vocabulary=vocabulary, width=width, dtype=dtype),
        "position": embedding.init(position_key, vocabulary=length, width=width, deviation=0.01, dtype=dtype),
        "blocks": trees.stack(blocks) if scan_layers else blocks,
        "norm": layer_norm.init(width=width, dtype=dtype),
    }
    return params if tied else params | {"head": _init_linear(head_key, width, vocabulary, dtype, bias=False)}


def apply(
    params: Params,
    tokens: jax.Array,
    *,
    heads: int,
    causal: bool = True,
    mask: jax.Array | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    """Tokens of (..., time) to logits of (..., time, vocabulary); the arguments are those of `features`."""
    x = features(params, tokens, heads=heads, causal=causal, mask=mask, dropout=dropout, key=key, dtype=dtype)
    return linear.apply(params["head"], x) if "head" in params else embedding.logits(params["token"], x)


def features(
    params: Params,
    tokens: jax.Array,
    *,
    heads: int,
    causal: bool = True,
    mask: jax.Array | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    """What the head reads, (..., time, width).

    Args:
        params: from `init`.
        tokens: integers of (..., time), usually (batch, time).
        heads: attention heads; they share the width equally.
        causal: whether a position sees only itself and what is before it.
        mask: boolean of (..., time), False at padding, which no other position then sees.
        dropout: the rate, on the embedding, the attention weights and what is added to the residual stream.
        key: of the dropout; None for none.
        dtype: to compute in, bfloat16 for example; the dtype of the parameters if not given. Softmax and the norms'
            statistics stay in float32.

    Raises:
        ValueError: the sequence is longer than the positions, the width is no multiple of the heads, or the mask has
            another shape than the tokens.
        TypeError: the tokens are not integers, or the mask is not boolean.
    """
    _require_fit(params, tokens, heads, mask)
    embedding_key, blocks_key = dropouts.split_key(key, 2)
    position = params["position"]["w"][: tokens.shape[-1]]
    x = embedding.apply(params["token"], tokens, dtype=dtype)  # (..., time, width)
    x = x + jnp.broadcast_to(position.astype(x.dtype), x.shape)
    x = dropouts.apply(x, rate=dropout, key=embedding_key)
    visible = _visible(tokens.shape, causal, mask)

    def block(x: jax.Array, layer: tuple[Params, jax.Array | None]) -> tuple[jax.Array, None]:
        return _apply_block(layer[0], x, heads, visible, dropout, layer[1]), None

    x = _through_layers(block, x, params["blocks"], blocks_key)
    return layer_norm.apply(params["norm"], x)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visible: jax.Array | None,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(size)) v, for each head: what `fb.attention` computes for sequences from `BY_TILES` tokens.

    Args:
        q, k, v: (..., time, heads, size).
        visible: boolean, broadcast to (..., heads, time of q, time of k) but of that rank: what a query may see, which
            must be at least one key. None for all.
        dropout: the rate, on the weights.
        key: of the dropout; None for none.

    Returns:
        (..., time, heads, size). The scores and their softmax are float32, or float64 for float64.
    """
    dtype = trees.accumulation_dtype(q)
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=dtype)  # (..., heads, time, time)
    scores = scores / math.sqrt(q.shape[-1])
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = dropouts.apply(weights, rate=dropout, key=key)
    return jnp.einsum("...hqk,...khd->...qhd", weights, v)  # (..., time, heads, size)


def _init_block(key: jax.Array, width: int, mlp_width: int, layers: int, dtype: jax.typing.DTypeLike) -> Params:
    qkv, projection, up, down = jax.random.split(key, 4)
    residual = 0.02 / math.sqrt(2 * layers)
    return {
        "norm1": layer_norm.init(width=width, dtype=dtype),
        "qkv": _init_linear(qkv, width, 3 * width, dtype),
        "projection": _init_linear(projection, width, width, dtype, deviation=residual),
        "norm2": layer_norm.init(width=width, dtype=dtype),
        "up": _init_linear(up, width, mlp_width, dtype),
        "down": _init_linear(down, mlp_width, width, dtype, deviation=residual),
    }


def _init_linear(
    key: jax.Array,
    inputs: int,
    outputs: int,
    dtype: jax.typing.DTypeLike,
    *,
    deviation: float = 0.02,
    bias: bool = True,
) -> Params:
    initializer = initializers.normal(deviation)
    return linear.init(key, inputs=inputs, outputs=outputs, bias=bias, initializer=initializer, dtype=dtype)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, visible: Any, dropout: float, key: jax.Array | None) -> jax.Array:
    if not isinstance(visible, Seen):
        return attention(q, k, v, visible, dropout=dropout, key=key)
    return attention_by_tiles(q, k, v, causal=visible.causal, mask=visible.mask, dropout=dropout, key=key)


def _visible(shape: tuple[int, ...], causal: bool, mask: jax.Array | None) -> jax.Array | Seen | None:
    """What each query of tokens of this shape may see: (..., 1, time, time), the middle axis for the heads.

    Padding is hidden from all but itself: so every row sees something, and no softmax is 0 / 0.
    """
    *batch, time = shape
    if time >= BY_TILES:
        return Seen(causal, None if mask is None else _visible_in_padding(mask))
    if not causal and mask is None:
        return None
    everything = jnp.ones((1,) * len(batch) + (1, time, time), bool)
    visible = jnp.tril(everything) if causal else everything
    return visible if mask is None else visible & _visible_in_padding(mask)


def _visible_in_padding(mask: jax.Array) -> jax.Array:
    """Every query sees the tokens that are not padding, and itself."""
    time = mask.shape[-1]
    itself = jnp.expand_dims(jnp.eye(time, dtype=bool), tuple(range(mask.ndim)))
    return mask[..., None, None, :] | itself


def _through_layers(block: Any, x: jax.Array, blocks: Params | list[Params], key: jax.Array | None) -> jax.Array:
    """x through every block: a loop over a list, a scan over stacked parameters."""
    if isinstance(blocks, dict):
        layers = blocks["norm1"]["scale"].shape[0]
        keys = None if key is None else jax.random.split(key, layers)
        return lax.scan(block, x, (blocks, keys))[0]
    for layer in zip(blocks, dropouts.split_key(key, len(blocks)), strict=True):
        x, _ = block(x, layer)
    return x


def _apply_block(
    params: Params, x: jax.Array, heads: int, visible: Any, dropout: float, key: jax.Array | None
) -> jax.Array:
    weights_key, attention_key, mlp_key = dropouts.split_key(key, 3)
    qkv = linear.apply(params["qkv"], layer_norm.apply(params["norm1"], x))  # (..., time, 3 width)
    q, k, v = (jnp.reshape(part, (*x.shape[:-1], heads, -1)) for part in jnp.split(qkv, 3, axis=-1))
    y = _attend(q, k, v, visible, dropout, weights_key)  # (..., time, heads, size)
    y = linear.apply(params["projection"], jnp.reshape(y, x.shape))  # (..., time, width)
    x = x + dropouts.apply(y, rate=dropout, key=attention_key)
    y = jax.nn.gelu(linear.apply(params["up"], layer_norm.apply(params["norm2"], x)))  # (..., time, mlp width)
    return x + dropouts.apply(linear.apply(params["down"], y), rate=dropout, key=mlp_key)


def _require_fit(params: Params, tokens: jax.Array, heads: int, mask: jax.Array | None) -> None:
    length, width = params["position"]["w"].shape
    if tokens.ndim == 0 or tokens.shape[-1] > length:
        raise ValueError(f"transformer: tokens of shape {tokens.shape} must be (..., time), time at most {length}.")
    if width % heads:
        raise ValueError(f"transformer: a width of {width} cannot be shared by {heads} heads.")
    if mask is None:
        return
    if mask.dtype != jnp.bool_:
        raise TypeError(f"transformer: the mask must be boolean and False at padding, got {mask.dtype}.")
    if mask.shape != tokens.shape:
        raise ValueError(f"transformer: the mask of shape {mask.shape} must have the tokens' shape {tokens.shape}.")
