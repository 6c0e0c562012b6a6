"""What is no attention or cross-entropy, or none that a block can run: with a reason, or passed over in silence."""

import jax
import jax.numpy as jnp

from fnbackprop import losses

from .loss_spellings import LABELS, LAYER, at_label, targets_of
from .spellings import BATCHED, BIAS, ONE, causal, scores, values


def weights_returned(q, k, v):
    p = jax.nn.softmax(scores(q, k))
    return values(p, v) + jnp.sum(p)


def scores_read(q, k, v):
    s = scores(q, k)
    return values(jax.nn.softmax(s), v) + jnp.max(s)


def weak_mask(q, k, v):
    return values(jax.nn.softmax(jnp.where(causal()[None, None], scores(q, k), -5.0)), v)


def weakened_mask(q, k, v):
    return values(jax.nn.softmax(jnp.where(causal()[None, None], scores(q, k), -1e9) * 1e-9), v)


def left_padding(s):
    return jnp.broadcast_to(jnp.arange(s.shape[-1]) > 1, s.shape)  # with `causal`, the first rows see no key


def masked_twice(q, k, v):
    s = jnp.where(causal()[None, None], scores(q, k), -1e9)
    return values(jax.nn.softmax(jnp.where(left_padding(s), s, -1e30)), v)


def masked_by_adding_twice(q, k, v):
    s = scores(q, k) + jnp.where(causal(), 0.0, -1e9)[None, None].astype(q.dtype)
    return values(jax.nn.softmax(s + jnp.where(left_padding(s), 0.0, -1e9).astype(q.dtype)), v)


def biased_after_a_mask(q, k, v):
    s = scores(q, k)
    s = jnp.where(left_padding(s) & causal()[None, None], s, -1e9)
    return values(jax.nn.softmax(s + jnp.asarray(BIAS, q.dtype)[None]), v)


def quantized_scores(q, k, v):
    return values(jax.nn.softmax(scores(q, k).astype(jnp.int8).astype(q.dtype)), v)


def part_of_complex_scores(q, k, v):
    return values(jax.nn.softmax((scores(q, k) * (2.0 - 1j)).real), v)


def weighted_scores(q, k, v):
    return values(jax.nn.softmax(scores(q, k) * jnp.asarray(BIAS, q.dtype)[None]), v)


def masks_of_two_numbers(q, k, v):
    """Scores are made 0 by one mask, and low by another."""
    b, c = causal().astype(q.dtype), jnp.tril(jnp.ones_like(BIAS[0]), 1)
    return values(jax.nn.softmax(scores(q, k) * b - 1e10 * (1 - c)), v)


def weak_mask_of_numbers(q, k, v):
    b = causal().astype(q.dtype)
    return values(jax.nn.softmax(scores(q, k) * b - 5.0 * (1 - b)), v)


def factors_of_heads_after_a_mask(q, k, v):
    s = jnp.where(causal()[None, None], scores(q, k), -1e9)
    return values(jax.nn.softmax(s * jnp.asarray([1.0, -1.0], q.dtype)[None, :, None, None]), v)


def factors_of_heads_after_a_bias(q, k, v):
    s = scores(q, k) + jnp.asarray(BIAS, q.dtype)[None]
    return values(jax.nn.softmax(s * jnp.asarray([1.0, 2.0], q.dtype)[None, :, None, None]), v)


def dropped(q, k, v):
    p = jax.nn.softmax(scores(q, k))
    keep = jax.random.bernoulli(jax.random.key(0), 0.9, p.shape)
    return values(jnp.where(keep, p / 0.9, 0.0), v)


def of_parameters(q, k, v):
    return values(jax.nn.softmax(jnp.sin(scores(q, k))), v)


def over_queries(q, k, v):
    return values(jax.nn.softmax(scores(q, k), axis=1), v)


def quantized_weights(q, k, v):
    return jax.nn.softmax(q @ k.T).astype(jnp.float8_e4m3fn).astype(q.dtype) @ v


def lowered_by_a_number(q, k, v):
    s = q @ k.T
    return jnp.exp(s - (jnp.log(jnp.sum(jnp.exp(s), -1, keepdims=True)) + 1.0)) @ v


def maximum_not_added_again(q, k, v):
    s = q @ k.T
    return jnp.exp(s - jnp.log(jnp.sum(jnp.exp(s - s.max(-1, keepdims=True)), -1, keepdims=True))) @ v


def squares_summed(x, w, b):
    logits = x @ w
    return losses.softmax_cross_entropy(logits, jnp.asarray(LABELS)) + 1e-4 * jnp.mean(jnp.square(logits))


def soft_targets(x, w, b):
    targets = jax.nn.softmax(jnp.sin(jnp.arange(30.0, dtype=x.dtype)).reshape(2, 3, 5))
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(x @ w), -1))


def smoothed_by_an_argument(x, w, b):
    targets = (1 - b[0]) * jax.nn.one_hot(jnp.asarray(LABELS), 5, dtype=x.dtype) + b[0] / 5
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(x @ w), -1))


def one_hot_turned(x, w, b):
    """Its rows and columns exchanged: which token, not which class, is the number."""
    x = jnp.concatenate([x, x, x])[:5, 0]
    hot = jax.nn.one_hot(jnp.arange(5) % 3, 5, dtype=x.dtype)
    return -jnp.sum(hot.T * jax.nn.log_softmax(x @ w), -1)


def number_divided_by_targets(x, w, b):
    targets = 0.1 / (0.1 + jax.nn.one_hot(jnp.asarray(LABELS), 5, dtype=x.dtype))
    return jnp.sum(targets * jax.nn.log_softmax(x @ w), -1)


def one_hot_of_tokens(x, w, b):
    """Along the wrong axis: which token, not which class, is the number."""
    logits = (x @ w)[0]
    hot = (jnp.arange(5)[None] == jnp.arange(3)[:, None]).astype(x.dtype)
    return jnp.sum(jnp.sum(hot * logits * logits, -1)) + jnp.sum(jnp.sum(hot.T * logits.T, -1))


def accuracy_too(x, w, b):
    logits = x @ w
    return losses.softmax_cross_entropy(logits, jnp.asarray(LABELS)) + 1.0 * jnp.mean(jnp.argmax(logits, -1) == 1)


def soft_targets_by_einsum(x, w, b):
    targets = jax.nn.softmax(jnp.sin(jnp.arange(30.0, dtype=x.dtype)).reshape(2, 3, 5))
    return -jnp.einsum("btv,btv->", targets, jax.nn.log_softmax(x @ w))


def log_of_softmax(x, w, b):
    return -jnp.sum(targets_of(x) * jnp.log(jax.nn.softmax(x @ w)))


def log_of_softmax_at_the_label(x, w, b):
    return -at_label(jnp.log(jax.nn.softmax(x @ w))).mean()


def weights_of_classes(x, w, b):
    return -jnp.sum(targets_of(x) * jnp.arange(5, dtype=x.dtype) * jax.nn.log_softmax(x @ w))


def summed_over_tokens(x, w, b):
    """Of each class."""
    return -jnp.sum(targets_of(x) * jax.nn.log_softmax(x @ w), (0, 1))


def products_of_all_tokens(x, w, b):
    """Of the targets of one token and the log-probabilities of another."""
    return -jnp.einsum("nv,mv->", targets_of(x)[0], jax.nn.log_softmax(x @ w)[1])


def one_hot_turned_by_einsum(x, w, b):
    x = jnp.concatenate([x, x, x])[:5, 0]
    hot = jax.nn.one_hot(jnp.arange(5) % 3, 5, dtype=x.dtype)
    return -jnp.einsum("vn,nv->", hot, jax.nn.log_softmax(x @ w))


def tokens_exchanged(x, w, b):
    """The targets of another token."""
    x = x[:, :2]
    return -jnp.einsum("tbv,btv->", targets_of(x, LABELS[:, :2]), jax.nn.log_softmax(x @ w))


def divided_along_the_wrong_axis(q, k, v):
    e = jnp.exp(q @ k.T)
    return (e / e.sum(-1)) @ v


def shifted_along_the_wrong_axis(q, k, v):
    s = q @ k.T
    e = jnp.exp(s - s.max(0))
    return (e / e.sum(-1, keepdims=True)) @ v


def logsumexp_plus_a_number(x, w, b):
    logits = x @ w
    m = logits.max(-1)
    return jnp.log(jnp.sum(jnp.exp(logits - m[..., None]), -1)) + 0.5 - at_label(logits)


def logarithm_of_a_sum_of_other_exponentials(x, w, b):
    logits = x @ w
    shifted = logits - logits.max(-1, keepdims=True)
    return at_label(shifted - jnp.log(jnp.sum(jnp.exp(jnp.exp(shifted)), -1, keepdims=True)))


def two_labels_of_each_token(x, w, b):
    return jnp.take_along_axis(jax.nn.log_softmax(x @ w), jnp.stack([jnp.asarray(LABELS)] * 2, -1), -1)


def number_for_a_label_that_is_no_class(x, w, b):
    labels = jnp.asarray(LABELS)[..., None]
    return jnp.take_along_axis(jax.nn.log_softmax(x @ w), labels, -1, mode="fill", fill_value=0.0)


MISSED = [
    (weights_returned, BATCHED, "result of div is read by reduce_sum"),
    (scores_read, BATCHED, "result of dot_general is read by reduce_max"),
    (weak_mask, BATCHED, "masked scores are set to -5"),
    (weakened_mask, BATCHED, "masked scores become -1 "),
    (masked_twice, BATCHED, "a row that sees none by both"),
    (masked_by_adding_twice, BATCHED, "a row that sees none by both"),
    (biased_after_a_mask, BATCHED, "a bias is added after a mask"),
    (quantized_scores, BATCHED, "pass through convert_element_type"),
    (part_of_complex_scores, BATCHED, "pass through real"),
    (weighted_scores, BATCHED, "multiplied with an array"),
    (masks_of_two_numbers, BATCHED, "multiplied with an array"),
    (weak_mask_of_numbers, BATCHED, "multiplied with an array"),
    (factors_of_heads_after_a_mask, BATCHED, "multiplied with an array"),
    (factors_of_heads_after_a_bias, BATCHED, "multiplied with an array"),
    (dropped, BATCHED, "weights are dropped .* fb.attention"),
    (of_parameters, BATCHED, "pass through sin"),
    (over_queries, BATCHED, "does not run over the keys"),
    (squares_summed, LAYER, "result of dot_general is read by square"),
    (accuracy_too, LAYER, "result of dot_general is read by argmax"),
    (soft_targets, LAYER, "is not made of the labels of its tokens"),
    (smoothed_by_an_argument, LAYER, "is not made of the labels of its tokens"),
    (soft_targets_by_einsum, LAYER, "is not made of the labels of its tokens"),
    (weights_of_classes, LAYER, "is not made of the labels of its tokens"),
    (log_of_softmax, LAYER, "use jax.nn.log_softmax"),
    (log_of_softmax_at_the_label, LAYER, "use jax.nn.log_softmax"),
]
LOOKALIKES = [
    (divided_along_the_wrong_axis, ONE), (shifted_along_the_wrong_axis, ONE), (quantized_weights, ONE),
    (lowered_by_a_number, ONE), (maximum_not_added_again, ONE), (logsumexp_plus_a_number, LAYER),
    (logarithm_of_a_sum_of_other_exponentials, LAYER), (two_labels_of_each_token, LAYER), (one_hot_of_tokens, LAYER),
    (one_hot_turned, LAYER), (number_divided_by_targets, LAYER),
    (number_for_a_label_that_is_no_class, LAYER), (summed_over_tokens, LAYER), (products_of_all_tokens, LAYER),
    (one_hot_turned_by_einsum, LAYER), (tokens_exchanged, LAYER),
]  # fmt: skip
