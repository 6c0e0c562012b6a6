"""The last layer and the loss in one: softmax cross-entropy of x w + b, without ever holding the logits of all tokens.

    logits = x w + b;  loss = mean of logsumexp(logits) - target,  target = (1 - ε) logits[label] + ε mean(logits)

The gradient with respect to the logits is known as soon as their logsumexp is: so the forward of a differentiated call
takes a chunk of tokens, makes its logits, and turns them into the cotangents of x, w and b at once; the backward only
multiplies these with the loss's cotangent. A call that is not differentiated stops at the loss.

Shapes in this file: x (tokens, width), w (width, classes), or (classes, width) where `tied`, b (classes,), labels and
mask (tokens,).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..jaxprs.avals import aval_of, explicit_sharding
from ..trees import accumulation_dtype
from .block import block
from .tiling import even_size, product

Array = jax.Array
CHUNK = 3 * 2**19  # logits of a chunk: 6 MiB in float32
TILE = 2**19  # weights of a tile: 2 MiB


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
        ValueError: shapes do not fit. TypeError: labels that are not integers, a mask that is not boolean.
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
    options = {"tied": tied, "label_smoothing": float(label_smoothing), "z_loss": float(z_loss)}
    return chunked_cross_entropy(rows, w, bias, labels.reshape(tokens).astype(jnp.int32), mask, **options)


def plain_cross_entropy(x, w, bias, labels, mask, *, tied, label_smoothing, z_loss):
    """The definition: all logits at once."""
    dtype, counted = accumulation_dtype(x, w), _counted(mask, labels)
    logits = _logits(jnp.where(counted[:, None], x, 0), w, bias, tied, dtype)
    lse = jax.nn.logsumexp(logits, -1)
    losses = lse - _target(logits, labels, label_smoothing) + z_loss * lse**2
    return jnp.sum(jnp.where(counted, losses, 0)) / jnp.maximum(jnp.sum(counted, dtype=dtype), 1)


class Cut(NamedTuple):
    """How the work is cut. The last chunk and the last tile end where the whole ends, and may overlap the one before.

    chunk: tokens of a chunk; chunks: where they begin. tile, tiles: the same of the classes.
    """

    chunk: int
    chunks: np.ndarray
    tile: int
    tiles: np.ndarray

    @classmethod
    def of(cls, x: Array, w: Array, classes: int) -> "Cut":
        (tokens, width), whole = x.shape, explicit_sharding(aval_of(x)) or explicit_sharding(aval_of(w))
        chunk = tokens if whole else even_size(tokens, max(CHUNK // max(classes, 1), 1))
        tile = classes if whole else even_size(classes, max(TILE // max(width, 1), 1))
        return cls(chunk, _begins(tokens, chunk), tile, _begins(classes, tile))


def _begins(size: int, part: int) -> np.ndarray:
    return np.arange(0, size, max(part, 1), dtype=np.int32)


def cross_entropy_value(x, w, bias, labels, mask, *, tied, label_smoothing, z_loss):
    options = {"tied": tied, "label_smoothing": label_smoothing, "z_loss": z_loss}
    return cross_entropy_forward(x, w, bias, labels, mask, **options, wanted=(False,) * 5)[0]


def cross_entropy_forward(x, w, bias, labels, mask, *, tied, label_smoothing, z_loss, wanted):
    dtype, classes = accumulation_dtype(x, w), w.shape[0 if tied else 1]
    cut, counted = Cut.of(x, w, classes), _counted(mask, labels)
    share = 1 / jnp.maximum(jnp.sum(counted, dtype=dtype), 1)

    def step(carry: tuple[Array, list], begin: Array) -> tuple[tuple[Array, list], None]:
        loss, (dx, dw, db) = carry
        start = lax.min(begin, np.int32(x.shape[0] - cut.chunk))
        x_c, labels_c, counted_c = (lax.dynamic_slice_in_dim(a, start, cut.chunk) for a in (x, labels, counted))
        counted_c &= _positions(start, cut.chunk) >= begin  # once, where chunks overlap
        x_c = jnp.where(counted_c[:, None], x_c, 0)  # 1
        logits = _logits(x_c, w, bias, tied, dtype)  # 2
        lse = jax.nn.logsumexp(logits, -1)  # 3
        losses = lse - _target(logits, labels_c, label_smoothing) + z_loss * lse**2  # 4
        loss += share * jnp.sum(jnp.where(counted_c, losses, 0))  # 5
        if not any(wanted):
            return (loss, [dx, dw, db]), None
        of_loss = jnp.where(counted_c, share, 0)[:, None]  # of 5

        def pull(found: list, begin_v: Array) -> tuple[list, None]:
            start_v = lax.min(begin_v, np.int32(classes - cut.tile))
            columns = _positions(start_v, cut.tile)[None]
            of_lse = jnp.exp(lax.dynamic_slice_in_dim(logits, start_v, cut.tile, 1) - lse[:, None])  # of 3
            of_target = (1 - label_smoothing) * (columns == labels_c[:, None]).astype(dtype) + label_smoothing / classes
            dlogits = of_loss * ((1 + 2 * z_loss * lse)[:, None] * of_lse - of_target)  # of 4
            dlogits = jnp.where(columns >= begin_v, dlogits, 0)  # once, where tiles overlap
            w_t = lax.dynamic_slice_in_dim(w, start_v, cut.tile, 0 if tied else 1)
            dx_c, dw, db = found
            dx_c = dx_c and [dx_c[0] + product("nv,vd->nd" if tied else "nv,dv->nd", dlogits, w_t, dtype)]  # of 2
            dw = dw and [
                _add(
                    dw[0], product("nv,nd->vd" if tied else "nv,nd->dv", dlogits, x_c, dtype), start_v, 0 if tied else 1
                )
            ]
            db = db and [_add(db[0], jnp.sum(dlogits, 0), start_v, 0)]
            return [dx_c, dw, db], None

        dx_c = dx and [lax.full_like(x_c, 0, dtype)]
        (dx_c, dw, db), _ = lax.scan(pull, [dx_c, dw, db], jnp.asarray(cut.tiles))
        dx = dx and [_add(dx[0], dx_c[0], start, 0)]  # of 1
        return (loss, [dx, dw, db]), None

    zeros = [
        [lax.full_like(a, 0, dtype)] if on and a is not None else []
        for a, on in zip((x, w, bias), wanted[:3], strict=True)
    ]
    (loss, found), _ = lax.scan(step, (share * 0, zeros), jnp.asarray(cut.chunks))
    return loss, found


def cross_entropy_backward(residuals, dloss):
    """The cotangents are those of a loss whose own is 1, times dloss."""
    dx, dw, db = (part[0] * dloss if part else None for part in residuals)
    return dx, dw, db, None, None


chunked_cross_entropy = block(
    cross_entropy_forward, cross_entropy_backward, plain=plain_cross_entropy, value=cross_entropy_value,
    name="linear_cross_entropy",
)  # fmt: skip


def _logits(x: Array, w: Array, bias: Array | None, tied: bool, dtype: Any) -> Array:
    logits = product("nd,vd->nv" if tied else "nd,dv->nv", x, w, dtype)
    return logits if bias is None else logits + bias.astype(dtype)[None]


def _target(logits: Array, labels: Array, smoothing: float) -> Array:
    """What logsumexp is compared with; NaN for a label outside, and a negative one does not count from the end."""
    classes = jnp.where(labels < 0, logits.shape[-1], labels)[:, None]
    target = (1 - smoothing) * jnp.take_along_axis(logits, classes, -1, mode="fill")[:, 0]
    return target + smoothing * jnp.mean(logits, -1) if smoothing else target


def _counted(mask: Array | None, labels: Array) -> Array:
    return lax.full_like(labels, True, jnp.bool_) if mask is None else mask


def _positions(start: Array, count: int) -> Array:
    return start + jnp.arange(count, dtype=jnp.int32)


def _add(x: Array, part: Array, start: Array, axis: int) -> Array:
    """Add to the part of x that begins at `start` along an axis."""
    own = lax.dynamic_slice_in_dim(x, start, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(x, own + part, start, axis)


def _require_fit(x: Array, w: Array, labels: Array, bias: Any, mask: Any, tied: bool, smoothing: float) -> None:
    name, (width, classes) = "linear_cross_entropy", w.shape[::-1] if tied else w.shape
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
