"""The last layer and the loss as people write them, all of which `fb.fusions` must say is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnbackprop import losses
from fnbackprop.models import embedding

RNG = np.random.default_rng(0)
LAYER = [RNG.normal(size=(2, 3, 4)), RNG.normal(size=(4, 5)), RNG.normal(size=5)]
LABELS = RNG.integers(0, 5, (2, 3))


def at_label(x):
    return jnp.take_along_axis(x, jnp.asarray(LABELS)[..., None], -1)[..., 0]


def our_loss(x, w, b):
    return losses.softmax_cross_entropy(x @ w, jnp.asarray(LABELS))


def tied_embedding(x, w, b):
    return losses.softmax_cross_entropy(embedding.logits({"w": w.T}, x), jnp.asarray(LABELS))


def optax_loss(x, w, b):
    return optax.softmax_cross_entropy_with_integer_labels(x @ w + b[None, None], jnp.asarray(LABELS)).mean()


def log_probabilities(x, w, b):
    return -at_label(jax.nn.log_softmax(x @ w + b[None, None])).mean()


def label_that_is_no_class(x, w, b):
    labels = jnp.asarray(LABELS).at[0, 0].set(7)
    return -jnp.take_along_axis(jax.nn.log_softmax(x @ w + b[None, None]), labels[..., None], -1).mean()


def z_loss_by_hand(x, w, b):
    logits = jnp.einsum("btd,vd->btv", x, w.T)
    lse = jax.nn.logsumexp(logits, -1)
    return jnp.sum((lse - at_label(logits)) * jnp.arange(3.0)[None] + 0.1 * lse**2)


def smoothed(x, w, b):
    return losses.softmax_cross_entropy(x @ w + b[None, None], jnp.asarray(LABELS), label_smoothing=0.1)


def smoothed_log_probabilities(x, w, b):
    log_p = jax.nn.log_softmax(x @ w + b[None, None])
    return -jnp.mean(0.9 * at_label(log_p) + 0.1 * jnp.mean(log_p, -1))


def masked_loss(x, w, b):
    mask, labels = jnp.asarray(LABELS) != 2, jnp.asarray(LABELS).at[0, 0].set(7)
    return losses.softmax_cross_entropy(x @ w + b[None, None], labels, label_smoothing=0.1, mask=mask & (labels < 5))


def ignored_labels(x, w, b):
    labels = jnp.where(jnp.asarray(LABELS) == 2, -100, jnp.asarray(LABELS))
    per_token = optax.softmax_cross_entropy_with_integer_labels(x @ w, jnp.where(labels < 0, 0, labels))
    return jnp.sum(jnp.where(labels < 0, 0, per_token)) / jnp.sum(labels >= 0)


def one_hot_of_a_label_that_is_no_class(x, w, b):
    hot = (jnp.asarray(LABELS).at[0, 0].set(7)[..., None] == jnp.arange(5)).astype(x.dtype)
    logits = x @ w + b
    return jnp.mean(jax.nn.logsumexp(logits, -1) - jnp.sum(hot * logits, -1))


def one_hot_by_optax(x, w, b):
    return optax.softmax_cross_entropy(x @ w + b, jax.nn.one_hot(jnp.asarray(LABELS), 5, dtype=x.dtype)).mean()


def smoothed_by_optax(x, w, b):
    targets = optax.smooth_labels(jax.nn.one_hot(jnp.asarray(LABELS), 5, dtype=x.dtype), 0.1)
    return optax.softmax_cross_entropy(x @ w + b, targets).mean()


def smoothed_by_hand(x, w, b):
    a = 0.3
    targets = (1 - a) * jax.nn.one_hot(jnp.asarray(LABELS), 5, dtype=x.dtype) + a / 5
    return jnp.mean(jnp.sum(-targets * jax.nn.log_softmax(x @ w + b), -1))


def smoothed_by_where(x, w, b):
    targets = jnp.where(jnp.arange(5) == jnp.asarray(LABELS)[..., None], 0.9, 0.025)
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(x @ w + b) * targets, -1))


def smoothed_one_hot_of_a_label_that_is_no_class(x, w, b):
    """Which leaves ε / classes for each class; targets whose sum is not 1, of logits and their logsumexp."""
    hot = (jnp.asarray(LABELS).at[0, 0].set(7)[..., None] == jnp.arange(5)).astype(x.dtype)
    logits = x @ w + b
    return jnp.mean(1.1 * jax.nn.logsumexp(logits, -1) - jnp.sum((hot * 3 - 0.5) / 2 * logits, -1))


def smoothed_and_masked(x, w, b):
    labels = jnp.asarray(LABELS)
    mask = labels != 2
    targets = 0.1 / 5 - (0.1 - 1) * jax.nn.one_hot(labels, 5, dtype=x.dtype)
    logits = jnp.where(mask[..., None], x @ w + b, 0)
    return jnp.sum(jnp.where(mask, jnp.sum(targets * jax.nn.log_softmax(logits), -1), 0)) / jnp.sum(mask)


def targets_of(x, labels=LABELS):
    return jax.nn.one_hot(jnp.asarray(labels), 5, dtype=x.dtype)


# ---------------------------------------------------------------- summed over the tokens at once


def at_once(x, w, b):
    return -jnp.sum(targets_of(x) * jax.nn.log_softmax(x @ w + b)) / LABELS.size


def mean_of_all(x, w, b):
    return jnp.mean(-jax.nn.log_softmax(x @ w + b) * targets_of(x)) * 5


def divided_within(x, w, b):
    return jnp.sum(targets_of(x) * jax.nn.log_softmax(x @ w + b) / LABELS.size)


def by_einsum(x, w, b):
    return -jnp.einsum("btv,btv->", targets_of(x), jax.nn.log_softmax(x @ w + b)) / LABELS.size


def by_einsum_of_each(x, w, b):
    """Its tokens exchanged."""
    each = jnp.einsum("btv,btv->tb", jax.nn.log_softmax(x @ w + b), targets_of(x))
    return -jnp.sum(each * jnp.arange(6.0, dtype=x.dtype).reshape(3, 2))


def by_einsum_of_turned_targets(x, w, b):
    each = jnp.einsum("vtb,btv->b", targets_of(x).T, jax.nn.log_softmax(x @ w + b))
    return -jnp.sum(each * jnp.asarray([1.0, 3.0], x.dtype))


def by_vdot(x, w, b):
    return -jnp.vdot(targets_of(x), jax.nn.log_softmax(x @ w + b)) / LABELS.size


def by_tensordot(x, w, b):
    return -jnp.tensordot(jax.nn.log_softmax(x @ w + b), targets_of(x), 3) / LABELS.size


def summed_over_a_sequence(x, w, b):
    return -jnp.mean(jnp.sum(targets_of(x) * jax.nn.log_softmax(x @ w + b), (1, 2)) * jnp.asarray([1.0, 3.0], x.dtype))


def weighted_at_once(x, w, b):
    weights = jnp.asarray([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]], x.dtype)
    return -jnp.sum(targets_of(x) * weights[..., None] * jax.nn.log_softmax(x @ w + b)) / jnp.sum(weights)


def weighted_by_einsum(x, w, b):
    weights = jnp.arange(1.0, 4, dtype=x.dtype)
    return -jnp.einsum("t,btv,btv->", weights, targets_of(x), jax.nn.log_softmax(x @ w + b))


def masked_targets(x, w, b):
    mask = (jnp.asarray(LABELS) != 2).astype(x.dtype)
    targets = targets_of(x) * mask[..., None]
    return -jnp.einsum("btv,btv->", targets, jax.nn.log_softmax(x @ w + b)) / jnp.sum(mask)


def weights_that_learn(x, w, b):
    """By the mean of the input of each token: they have a gradient."""
    weights = jax.nn.sigmoid(jnp.mean(x, -1, keepdims=True))
    return -jnp.sum(weights * targets_of(x) * jax.nn.log_softmax(x @ w + b))


def smoothed_at_once(x, w, b):
    log_p = jax.nn.log_softmax(x @ w + b)
    return -(0.9 * jnp.sum(targets_of(x) * log_p) + 0.1 / 5 * jnp.sum(log_p)) / LABELS.size


def smoothed_targets_at_once(x, w, b):
    targets = optax.smooth_labels(targets_of(x), 0.1)
    return -jnp.vdot(targets, jax.nn.log_softmax(x @ w + b)) / LABELS.size


def logits_at_once(x, w, b):
    """Of logits and their logsumexp, each summed by itself."""
    logits = x @ w + b
    return (jnp.sum(jax.nn.logsumexp(logits, -1)) - jnp.einsum("btv,btv->", targets_of(x), logits)) / LABELS.size


def of_one_axis(x, w, b):
    return -jnp.sum(targets_of(x, LABELS[0]) * jax.nn.log_softmax(x[0] @ w + b)) / 3


def of_one_axis_by_einsum(x, w, b):
    return -jnp.einsum("nv,nv->", targets_of(x, LABELS.ravel()), jax.nn.log_softmax(x.reshape(6, 4) @ w + b)) / 6


LOSSES = [
    our_loss, tied_embedding, optax_loss, log_probabilities, label_that_is_no_class, z_loss_by_hand, smoothed,
    smoothed_log_probabilities, masked_loss, ignored_labels, one_hot_of_a_label_that_is_no_class, one_hot_by_optax,
    smoothed_by_optax, smoothed_by_hand, smoothed_by_where, smoothed_one_hot_of_a_label_that_is_no_class,
    smoothed_and_masked,
]  # fmt: skip
AT_ONCE = [
    at_once, mean_of_all, divided_within, by_einsum, by_einsum_of_each, by_einsum_of_turned_targets, by_vdot,
    by_tensordot, summed_over_a_sequence, weighted_at_once, weighted_by_einsum, masked_targets, weights_that_learn,
    smoothed_at_once, smoothed_targets_at_once, logits_at_once, of_one_axis, of_one_axis_by_einsum,
]  # fmt: skip
