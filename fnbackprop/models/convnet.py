"""A convolutional network of 3x3 convolutions, plain or residual, for images of any size.

    stage:  convolution, norm, ReLU, smaller by 2 (not in the first stage), then `blocks` blocks
    block:  norm, ReLU, convolution, dropout, norm, ReLU, convolution; with the block's input added if residual
    head:   norm, ReLU, mean over height and width, linear

The norm is a layer norm over the channels of each pixel: it needs no statistics of the batch, so `apply` is the same
function in training and in evaluation.

Sources: K. He et al., Identity Mappings in Deep Residual Networks, 2016 (the order inside a block); K. He et al.,
Delving Deep into Rectifiers, 2015 (initialisation); Z. Liu et al., A ConvNet for the 2020s, 2022 (layer norm).
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from fnbackprop.models import dropout as dropouts
from fnbackprop.models import layer_norm, linear

Params = dict[str, Any]
Shrinking = Literal["max", "mean", "stride"]


def init(
    key: jax.Array,
    *,
    inputs: int,
    channels: Sequence[int],
    outputs: int,
    blocks: int = 1,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Params:
    """{"stages": [{"conv", "norm", "blocks": [...]}, ...], "norm", "head"}; He normal, the head Glorot uniform.

    Args:
        key: the random key.
        inputs: channels of the image, 1 for grey and 3 for colour.
        channels: the channels of each stage; each stage after the first halves height and width.
        outputs: the classes.
        blocks: blocks in each stage, of two convolutions each.
        dtype: of the parameters.
    """
    *stage_keys, head_key = jax.random.split(key, len(channels) + 1)
    widths = [inputs, *channels]
    stages = [
        _init_stage(k, inputs=m, outputs=n, blocks=blocks, dtype=dtype)
        for k, m, n in zip(stage_keys, widths, channels, strict=False)
    ]
    return {
        "stages": stages,
        "norm": layer_norm.init(width=widths[-1], dtype=dtype),
        "head": linear.init(head_key, inputs=widths[-1], outputs=outputs, dtype=dtype),
    }


def apply(
    params: Params,
    x: jax.Array,
    *,
    residual: bool = False,
    shrink: Shrinking = "max",
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Images of (batch, height, width, channels) to logits of (batch, outputs).

    Args:
        params: from `init`.
        x: the images; height and width at least 2 ** (stages - 1).
        residual: whether a block adds its input to its output; the parameters are the same either way.
        shrink: how a stage halves height and width: "max" or "mean" over 2x2 pixels, or the "stride" of its
            first convolution.
        dropout: the rate, inside the blocks and before the head.
        key: of the dropout; None for none.
    """
    _require_images(params, x, shrink)
    *stage_keys, head_key = dropouts.split_key(key, len(params["stages"]) + 1)
    for i, (stage, stage_key) in enumerate(zip(params["stages"], stage_keys, strict=True)):
        x = _apply_stage(stage, x, residual, shrink if i else None, dropout, stage_key)
    x = jax.nn.relu(layer_norm.apply(params["norm"], x))
    x = jnp.mean(x, axis=(1, 2))  # (batch, channels)
    return linear.apply(params["head"], dropouts.apply(x, rate=dropout, key=head_key))


def init_conv(
    key: jax.Array, *, inputs: int, outputs: int, size: int = 3, dtype: jax.typing.DTypeLike = jnp.float32
) -> Params:
    """{"w": (size, size, inputs, outputs), "b": (outputs,)}: He normal for fan-in size * size * inputs."""
    w = initializers.he_normal()(key, (size, size, inputs, outputs), jnp.float32)
    return {"w": w.astype(dtype), "b": jnp.zeros((outputs,), dtype)}


def apply_conv(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """The zero-padded convolution of (batch, height, width, inputs); a stride divides height and width, upwards."""
    w = params["w"].astype(x.dtype)
    y = lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return linear.add_bias(params, y)


def pool(x: jax.Array, by: Literal["max", "mean"]) -> jax.Array:
    """The largest or the mean of each 2x2 pixels: (batch, height // 2, width // 2, channels)."""
    window = (1, 2, 2, 1)
    if by == "max":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    return lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / 4


def _init_stage(key: jax.Array, *, inputs: int, outputs: int, blocks: int, dtype: jax.typing.DTypeLike) -> Params:
    conv_key, *block_keys = jax.random.split(key, blocks + 1)
    return {
        "conv": init_conv(conv_key, inputs=inputs, outputs=outputs, dtype=dtype),
        "norm": layer_norm.init(width=outputs, dtype=dtype),
        "blocks": [_init_block(k, width=outputs, dtype=dtype) for k in block_keys],
    }


def _init_block(key: jax.Array, *, width: int, dtype: jax.typing.DTypeLike) -> Params:
    key1, key2 = jax.random.split(key)
    return {
        "norm1": layer_norm.init(width=width, dtype=dtype),
        "conv1": init_conv(key1, inputs=width, outputs=width, dtype=dtype),
        "norm2": layer_norm.init(width=width, dtype=dtype),
        "conv2": init_conv(key2, inputs=width, outputs=width, dtype=dtype),
    }


def _apply_stage(
    params: Params, x: jax.Array, residual: bool, shrink: Shrinking | None, dropout: float, key: jax.Array | None
) -> jax.Array:
    x = apply_conv(params["conv"], x, stride=2 if shrink == "stride" else 1)  # (batch, height, width, channels)
    x = jax.nn.relu(layer_norm.apply(params["norm"], x))
    if shrink in ("max", "mean"):
        x = pool(x, shrink)  # (batch, height // 2, width // 2, channels)
    for block, block_key in zip(params["blocks"], dropouts.split_key(key, len(params["blocks"])), strict=True):
        y = _apply_block(block, x, dropout, block_key)
        x = x + y if residual else y
    return x


def _apply_block(params: Params, x: jax.Array, dropout: float, key: jax.Array | None) -> jax.Array:
    x = apply_conv(params["conv1"], jax.nn.relu(layer_norm.apply(params["norm1"], x)))
    x = dropouts.apply(x, rate=dropout, key=key)
    return apply_conv(params["conv2"], jax.nn.relu(layer_norm.apply(params["norm2"], x)))


def _require_images(params: Params, x: jax.Array, shrink: str) -> None:
    if shrink not in ("max", "mean", "stride"):
        raise ValueError(f'convnet: shrink must be "max", "mean" or "stride", got {shrink!r}.')
    channels = params["stages"][0]["conv"]["w"].shape[2]
    if x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(f"convnet: x of shape {x.shape} must be (batch, height, width, {channels}).")
    smallest = 2 ** (len(params["stages"]) - 1)
    if min(x.shape[1:3]) < smallest:
        raise ValueError(f"convnet: images of {x.shape[1]}x{x.shape[2]} are too small, at least {smallest} each way.")
