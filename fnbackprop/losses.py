"""Loss functions: each takes predictions and targets and gives one scalar, the mean over the elements that count.

Common to all of them:

- Computed and added up in float32 (float64 if an input is float64), whatever the dtype of the predictions; the
  result has that dtype.
- `mask` is boolean and has the shape of the loss's elements or of their leading axes: an element counts where it
  is True. What stands in a masked element (NaN, inf, a label of -100) changes neither the loss nor its gradient.
  If nothing counts, the loss is 0.
- Shapes are never broadcast: predictions of (n, 1) against targets of (n,) are a ValueError that gives both shapes.
"""

import math

import jax
import jax.numpy as jnp

from fnbackprop.trees import accumulation_dtype


def mean_squared_error(predictions: jax.Array, targets: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """The mean of (prediction - target)**2, with no factor 1/2.

    Args:
        predictions: any shape.
        targets: the same shape.
        mask: optional, see the head of this module.

    Raises:
        ValueError: the shapes differ, or the mask fits neither the shape nor its leading axes.
        TypeError: the predictions are not floating, or the mask is not boolean.
    """
    return _mean(jnp.square(_errors("mean_squared_error", predictions, targets, mask)), mask)


def huber(
    predictions: jax.Array, targets: jax.Array, *, delta: float = 1.0, mask: jax.Array | None = None
) -> jax.Array:
    """The mean of error**2 / 2 where |error| <= delta, and of delta * (|error| - delta / 2) beyond.

    Written with c = the error clipped to [-delta, delta], as c * (error - c / 2): one formula for both parts, and
    its derivative is c.

    Args:
        predictions: any shape.
        targets: the same shape.
        delta: where the parabola becomes a straight line; positive.
        mask: optional, see the head of this module.

    Raises:
        ValueError: the shapes differ, the mask does not fit, or delta is not positive.
        TypeError: the predictions are not floating, or the mask is not boolean.

    Source: P. J. Huber, Robust Estimation of a Location Parameter, 1964.
    """
    if not delta > 0:
        raise ValueError(f"huber: delta must be positive, got {delta}.")
    errors = _errors("huber", predictions, targets, mask)
    clipped = jnp.clip(errors, -delta, delta)
    return _mean(clipped * (errors - clipped / 2), mask)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """The mean of -label * log p - (1 - label) * log(1 - p), where p = sigmoid(logit).

    Taken from the logits as label * softplus(-logit) + (1 - label) * softplus(logit): it neither overflows nor
    loses the digits of a small loss, and each element's gradient is p - label.

    Args:
        logits: any shape.
        labels: the same shape, of any dtype: 0, 1, or a probability between.
        mask: optional, see the head of this module.

    Raises:
        ValueError: the shapes differ, or the mask does not fit.
        TypeError: the logits are not floating (probabilities and classes are no logits), or the mask is not boolean.
    """
    _require_same_shape("binary_cross_entropy", mask, logits=logits, labels=labels)
    dtype = accumulation_dtype(logits, labels)
    logits, labels = (_where(mask, jnp.asarray(x, dtype)) for x in (logits, labels))
    return _mean(labels * jax.nn.softplus(-logits) + (1 - labels) * jax.nn.softplus(logits), mask)


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0, mask: jax.Array | None = None
) -> jax.Array:
    """The mean of logsumexp(logits) - logits[label]: the negative log-probability of the labelled class, in nats.

    Args:
        logits: (..., classes).
        labels: integers of shape (...), from 0 to classes - 1. A label outside gives NaN, rather than the loss of
            some other class; mask such elements out if they are padding.
        label_smoothing: between 0 and 1; the target is (1 - label_smoothing) on the label and label_smoothing
            spread evenly over all classes.
        mask: optional, (...) or its leading axes, see the head of this module.

    Raises:
        ValueError: the labels' shape is not the logits' without the classes, the mask does not fit, or
            label_smoothing is outside of 0 to 1.
        TypeError: the logits are not floating, the labels are not integers, or the mask is not boolean.

    Source of the smoothing: C. Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
    """
    _require_class_labels(logits, labels, label_smoothing, mask)
    logits = _where(mask, jnp.asarray(logits, accumulation_dtype(logits)))
    labels = jnp.asarray(labels, jnp.int32)
    target = (1 - label_smoothing) * _at_label(logits, labels)
    if label_smoothing:
        target += label_smoothing * jnp.mean(logits, axis=-1)
    return _mean(jax.nn.logsumexp(logits, axis=-1) - target, mask)


def _at_label(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """logits[..., label], and NaN for a label outside; a negative one does not count from the end."""
    labels = jnp.where(labels < 0, logits.shape[-1], labels)
    return jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="fill")[..., 0]


def _errors(name: str, predictions: jax.Array, targets: jax.Array, mask: jax.Array | None) -> jax.Array:
    """predictions - targets in the dtype of the loss, and 0 where masked."""
    _require_same_shape(name, mask, predictions=predictions, targets=targets)
    dtype = accumulation_dtype(predictions, targets)
    return _where(mask, jnp.asarray(predictions, dtype) - jnp.asarray(targets, dtype))


def _where(mask: jax.Array | None, values: jax.Array) -> jax.Array:
    """The values, and 0 where the mask, of their shape or leading axes, is False."""
    if mask is None:
        return values
    return jnp.where(jnp.reshape(mask, mask.shape + (1,) * (values.ndim - mask.ndim)), values, 0)


def _mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean over the elements that count, 0 if there are none; what stands in the others is dropped."""
    if mask is None:
        return jnp.sum(values) / max(values.size, 1)
    trailing_size = math.prod(values.shape[mask.ndim :])
    count = jnp.sum(mask, dtype=jnp.int32).astype(values.dtype) * trailing_size
    return jnp.sum(_where(mask, values)) / jnp.maximum(count, 1)


def _require_same_shape(name: str, mask: jax.Array | None, **arrays: jax.Array) -> None:
    """The checks of the losses that go element by element; the first array is the prediction."""
    (first_name, first), (second_name, second) = arrays.items()
    if jnp.shape(first) != jnp.shape(second):
        raise ValueError(
            f"{name}: {first_name} of shape {jnp.shape(first)} and {second_name} of shape {jnp.shape(second)} must "
            "have the same shape; reshape one of them (nothing is broadcast)."
        )
    _require_floating(name, first_name, first)
    _require_mask(name, mask, jnp.shape(first))


def _require_class_labels(logits: jax.Array, labels: jax.Array, label_smoothing: float, mask: jax.Array | None) -> None:
    name = "softmax_cross_entropy"
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(f"{name}: labels must be integers, the index of the class, got {jnp.result_type(labels)}.")
    if jnp.ndim(logits) == 0 or jnp.shape(logits)[:-1] != jnp.shape(labels):
        raise ValueError(
            f"{name}: logits of shape {jnp.shape(logits)} are (..., classes), so labels must have the shape "
            f"{jnp.shape(logits)[:-1]}, got {jnp.shape(labels)}."
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing must be between 0 and 1, got {label_smoothing}.")
    _require_floating(name, "logits", logits)
    _require_mask(name, mask, jnp.shape(labels))


def _require_floating(name: str, array_name: str, array: jax.Array) -> None:
    if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
        raise TypeError(f"{name}: {array_name} must be floating, got {jnp.result_type(array)}.")


def _require_mask(name: str, mask: jax.Array | None, shape: tuple[int, ...]) -> None:
    if mask is None:
        return
    if jnp.result_type(mask) != jnp.bool_:
        raise TypeError(f"{name}: the mask must be boolean, got {jnp.result_type(mask)}; write mask > 0, for example.")
    if jnp.shape(mask) != shape[: jnp.ndim(mask)]:
        raise ValueError(
            f"{name}: the mask of shape {jnp.shape(mask)} must have the shape {shape} of the elements, or of their "
            "leading axes."
        )
