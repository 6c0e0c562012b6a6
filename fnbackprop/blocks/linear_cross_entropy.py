"""The last layer and the loss in one: softmax cross-entropy of x w + b, without ever holding the logits of all tokens.

    logits = x w + b;  loss = mean of logsumexp(logits) - target,  target = (1 - ε) logits[label] + ε mean(logits)

Of a few thousand classes, a chunk of tokens has its loss and its gradient computed at once, in three products. Of more,
the logits are gone through tile by tile, twice (`tiled_logits`).

Shapes in this file: x (tokens, width), w (width, classes), or (classes, width) where `tied`, b (classes,), labels and
mask (tokens,).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..jaxprs.avals import aval_of, explicit_sharding
from ..trees import accumulation_dtype
from .block import block
from .tiled_logits import Summary, add_at, logit_at, logits_of, of_w, plain_logits, tiled_logits
from .tiling import even_size, may_be_divided, product

Array = jax.Array
LOGITS, FEWEST = 5 * 2**18, 128  # of a chunk: the most logits, 5 MiB in float32, and the fewest tokens


def linear_cross_entropy(
    x: Array,
    w: Array,
    labels: Array,
    *,
    bias: Array | None = None,
    mask: Array | None = None,
    tied: bool = False,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Array:
    """`losses.softmax_cross_entropy(x @ w + bias, labels)`, in a fraction of the memory and of the time.

    Args:
        x: (..., width), what the last layer reads. It works under `jax.grad` and `fb.grad` alike.
        w: (width, classes); with `tied`, an embedding's table of (classes, width).
        labels: integers of (...), from 0 to classes - 1; one outside gives NaN, unless masked.
        bias: (classes,).
        mask: boolean, of (...): tokens where it is False do not count, whatever stands in them.
        tied: whether w is the table of an embedding.
        label_smoothing: ε, the part of the target that is spread evenly over all classes.
        z_loss: the weight of the mean of logsumexp(logits)², which keeps logits near their usual scale (PaLM, 2022).
    Returns:
        The mean over the tokens that count, 0 if there are none; float32, or float64 if x or w is.
    Raises:
        ValueError: shapes do not fit. TypeError: labels that are not integers, a mask that is not boolean,
            or complex numbers.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> x, w, labels = jnp.array([[1.0, 2.0]]), jnp.eye(2), jnp.array([1])
        >>> value, gradient = jax.value_and_grad(fb.linear_cross_entropy)(x, w, labels)
        >>> print(f"{value:.3f}", gradient)
        0.313 [[ 0.2689... -0.2689...]]
    """
    _require_fit(x, w, labels, bias, mask, tied, label_smoothing)
    tokens = math.prod(labels.shape)
    mask = None if mask is None else mask.reshape(tokens)
    rows = x.reshape(tokens, x.shape[-1]) if x.ndim != 2 else x
    labels = labels.reshape(tokens).astype(jnp.int32)
    operands, options = (
        (rows, w, bias, labels, mask),
        {"label_smoothing": float(label_smoothing), "z_loss": float(z_loss)},
    )
    if at_once := tokens_at_once(rows, w, tied):
        return loss_in_chunks(*operands, tied=tied, at_once=at_once, **options)
    return _mean_loss(tiled_logits(*operands, tied=tied, with_mean=label_smoothing > 0), mask, **options)


def _mean_loss(summary: Summary, mask: Array | None, label_smoothing: float, z_loss: float) -> Array:
    losses = _losses(summary, label_smoothing, z_loss)
    if mask is None:
        return jnp.sum(losses) / max(losses.size, 1)
    return jnp.sum(jnp.where(mask, losses, 0)) / jnp.maximum(jnp.sum(mask, dtype=losses.dtype), 1)


def _losses(summary: Summary, label_smoothing: float, z_loss: float) -> Array:
    lse, at_label, mean = summary
    losses = lse - (1 - label_smoothing) * at_label + z_loss * lse**2
    return losses if mean is None else losses - label_smoothing * mean


# ---------------------------------------------------------------- chunks of tokens, with all of their logits


def tokens_at_once(x: Array, w: Array, tied: bool) -> int:
    """How many tokens have their logits held at once; 0 where these would be so few that adding up their parts of the
    cotangent of w takes longer than the products, or where arrays may lie on several devices."""
    most = LOGITS // max(w.shape[0 if tied else 1], 1)
    divided = may_be_divided(x) or explicit_sharding(aval_of(w)) is not None
    return 0 if divided or most < min(FEWEST, x.shape[0]) else even_size(x.shape[0], most)


def plain_loss(x, w, bias, labels, mask, *, tied, at_once, label_smoothing, z_loss):
    """The definition: all logits, whatever `at_once` says."""
    summary = plain_logits(x, w, bias, labels, mask, tied=tied, with_mean=label_smoothing > 0)
    return _mean_loss(summary, mask, label_smoothing, z_loss)


def loss_value(x, w, bias, labels, mask, *, tied, at_once, label_smoothing, z_loss):
    summary = tiled_logits(x, w, bias, labels, mask, tied=tied, with_mean=label_smoothing > 0)
    return _mean_loss(summary, mask, label_smoothing, z_loss)


def loss_forward(x, w, bias, labels, mask, *, tied, at_once, label_smoothing, z_loss, wanted):
    """The gradient of a chunk of `at_once` tokens is computed with its loss, while its logits are there."""
    dtype, tokens = accumulation_dtype(x, w), x.shape[0]
    counted = lax.full_like(labels, True, jnp.bool_) if mask is None else mask
    columns = jnp.arange(w.shape[0 if tied else 1], dtype=jnp.int32)
    share = 1 / jnp.maximum(jnp.sum(counted, dtype=dtype), 1)
    x = x if mask is None else jnp.where(mask[:, None], x, 0)
    turned_x = None if tied else x.T

    def step(carry: Any, begin: Array) -> Any:
        loss, dx, dw, db = carry
        start = lax.min(begin, np.int32(tokens - at_once))  # the last chunk overlaps another
        own, labels_i, x_i = (lax.dynamic_slice_in_dim(a, start, at_once) for a in (counted, labels, x))
        fresh = own & (start + jnp.arange(at_once, dtype=jnp.int32) >= begin)
        weight = jnp.where(fresh, share, 0)
        z = logits_of(x_i, w, bias, tied, dtype)  # 1
        m = jnp.max(z, 1)
        e = lax.exp(z - m[:, None])
        total = jnp.sum(e, 1)
        lse = m + jnp.log(total)  # 2
        is_label = labels_i[:, None] == columns[None]
        at_label = logit_at(labels_i, z)  # 3
        summary = Summary(lse, at_label, jnp.mean(z, 1) if label_smoothing else None)  # 4
        loss = loss + share * jnp.sum(jnp.where(fresh, _losses(summary, label_smoothing, z_loss), 0))  # 5

        of_lse = weight * (1 + 2 * z_loss * lse) / total
        dz = e * of_lse[:, None] - jnp.where(is_label, ((1 - label_smoothing) * weight)[:, None], 0)  # of 5, 3 and 2
        dz = dz - (label_smoothing / columns.size * weight)[:, None] if label_smoothing else dz  # of 4
        if dx is not None:  # of 1
            dx = add_at(dx, product("nv,vd->nd" if tied else "nv,dv->nd", dz, w, dtype), start, 0)
        if dw is not None:  # of 1
            dw = dw + of_w(x_i, turned_x, start, dz, dtype)
        return (loss, dx, dw, None if db is None else db + jnp.sum(dz, 0)), None

    targets = zip((x, w, bias), wanted[:3], strict=True)
    zeros = [lax.full_like(a, 0, dtype) if on else None for a, on in targets]
    begins = jnp.arange(0, tokens, at_once, dtype=jnp.int32)
    (loss, *gradients), _ = lax.scan(step, (share * 0, *zeros), begins)
    return loss, gradients


def loss_backward(gradients, dloss):
    return *(None if g is None else dloss.astype(g.dtype) * g for g in gradients), None, None


loss_in_chunks = block(loss_forward, loss_backward, plain=plain_loss, value=loss_value, name="linear_cross_entropy")


def _require_fit(x: Array, w: Array, labels: Array, bias: Any, mask: Any, tied: bool, smoothing: float) -> None:
    name, (width, classes) = "linear_cross_entropy", w.shape[::-1] if tied else w.shape
    for what, array in (("x", x), ("w", w), ("the bias", bias)):
        if jnp.iscomplexobj(array):
            raise TypeError(f"{name}: {what} must be real, got {array.dtype}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{name}: labels must be integers, the index of the class, got {labels.dtype}.")
    if x.shape != (*labels.shape, width):
        orders = "(classes, width)" if tied else "(width, classes), or (classes, width) where tied=True"
        raise ValueError(
            f"{name}: x of shape {x.shape} must be (..., width) with labels of shape {labels.shape} and w of shape "
            f"{w.shape}, which is {orders}."
        )
    if bias is not None and bias.shape != (classes,):
        raise ValueError(f"{name}: a bias of shape {bias.shape} must be ({classes},), one for each class.")
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(f"{name}: the mask must be boolean, got {mask.dtype}.")
    if mask is not None and mask.shape != labels.shape:
        raise ValueError(f"{name}: a mask of shape {mask.shape} must have the shape {labels.shape} of the labels.")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing must be between 0 and 1, got {smoothing}.")
