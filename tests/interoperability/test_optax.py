"""Optax: losses, and an update differentiated through."""

import jax
import numpy as np
import optax

from .agreement import check_agreement, draw

LOGITS, OTHER = draw(4, 5), draw(4, 5)[::-1].copy()
LABELS = np.array([0, 4, 2, 2])
PROBABILITIES, TARGET = draw(4, 5, low=0.1, high=0.9), draw(4, 5, low=0.1, high=0.9)[::-1].copy()
SIGNS = np.sign(OTHER)


def test_losses():
    two = (LOGITS, OTHER)
    programs = {
        "softmax_cross_entropy": (optax.softmax_cross_entropy, (LOGITS, TARGET)),
        "safe_softmax_cross_entropy": (optax.safe_softmax_cross_entropy, (LOGITS, TARGET)),
        "integer_labels": (lambda x: optax.softmax_cross_entropy_with_integer_labels(x, LABELS), (LOGITS,)),
        "sigmoid_binary_cross_entropy": (optax.sigmoid_binary_cross_entropy, (LOGITS, TARGET)),
        "sigmoid_focal_loss": (lambda x: optax.sigmoid_focal_loss(x, TARGET > 0.5, alpha=0.3), (LOGITS,)),
        "poly_loss_cross_entropy": (optax.losses.poly_loss_cross_entropy, (LOGITS, TARGET)),
        "kl_divergence": (optax.kl_divergence, (LOGITS, TARGET)),
        "squared_error": (optax.squared_error, two),
        "l2_loss": (optax.l2_loss, two),
        "huber_loss": (optax.huber_loss, two),
        "log_cosh": (optax.log_cosh, two),
        "cosine_similarity": (optax.cosine_similarity, two),
        "hinge_loss": (lambda x: optax.hinge_loss(x, SIGNS), (LOGITS,)),
        "multiclass_hinge_loss": (lambda x: optax.losses.multiclass_hinge_loss(x, LABELS), (LOGITS,)),
        "triplet_margin_loss": (optax.losses.triplet_margin_loss, (LOGITS, OTHER, PROBABILITIES)),
        "ntxent": (lambda x: optax.losses.ntxent(x, LABELS), (LOGITS,)),
        "ranking_softmax_loss": (optax.losses.ranking_softmax_loss, (LOGITS, TARGET)),
    }
    check_agreement(programs)


def test_ctc_loss():
    logits, paddings = draw(2, 6, 4), np.zeros((2, 6))
    labels, unlabelled = np.array([[1, 2, 2], [3, 1, 0]]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    check_agreement({"ctc_loss": (lambda x: optax.ctc_loss(x, paddings, labels, unlabelled), (logits,))})


def unrolled(optimiser):
    """Parameters after three updates, as a function of where they began and of the learning rate."""

    def fun(params, rate):
        def step(carry, _):
            params, state = carry
            gradient = jax.tree.map(lambda p: p**3 + p, params)
            updates, state = optimiser(rate).update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimiser(rate).init(params)), None, length=3)[0][0]

    return fun


def test_updates():
    params, rate = {"w": draw(3, 2), "b": draw(2)}, np.asarray(0.1)
    optimisers = {
        "sgd": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
        "adamw": lambda rate: optax.adamw(rate, weight_decay=0.1),
        "clipped": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(rate)),
    }
    check_agreement({name: (unrolled(optimiser), (params, rate)) for name, optimiser in optimisers.items()})
