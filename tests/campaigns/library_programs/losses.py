"""Losses of Optax, and steps of its optimizers as functions of their learning rate."""

import jax
import jax.numpy as jnp
import optax

from .table import LibraryProgram, positive, program, real, simplex, unit, whole

_logits, _labels = real(4, 5), whole(5, 4)


def trained(make):
    """The loss after three steps of an optimizer, as a function of the learning rate and the start."""

    def after(rate, w, x):
        def loss(w):
            return jnp.mean((jnp.tanh(x @ w) - 0.5) ** 2)

        optimizer = make(rate)
        state = optimizer.init(w)
        for _ in range(3):
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            w = optax.apply_updates(w, updates)
        return loss(w)

    return after


def ctc(logits):
    labels = jnp.array([[1, 2, 2], [3, 1, 0]])
    return optax.losses.ctc_loss(logits, jnp.zeros(logits.shape[:2]), labels, (labels == 0).astype(logits.dtype))


def ntxent(embeddings):
    return optax.losses.ntxent(embeddings, jnp.array([0, 0, 1, 1]))


PROGRAMS: tuple[LibraryProgram, ...] = (
    program(
        "optax.softmax_cross_entropy_with_integer_labels",
        optax.softmax_cross_entropy_with_integer_labels,
        _logits,
        _labels,
    ),
    program("optax.softmax_cross_entropy", optax.softmax_cross_entropy, _logits, simplex(4, 5)),
    program("optax.safe_softmax_cross_entropy", optax.safe_softmax_cross_entropy, _logits, simplex(4, 5)),
    program("optax.poly_loss_cross_entropy", optax.losses.poly_loss_cross_entropy, _logits, simplex(4, 5)),
    program("optax.sigmoid_binary_cross_entropy", optax.sigmoid_binary_cross_entropy, _logits, unit(4, 5)),
    program("optax.sigmoid_focal_loss", optax.losses.sigmoid_focal_loss, _logits, unit(4, 5)),
    program(
        "optax.multiclass_generalized_dice_loss",
        optax.losses.multiclass_generalized_dice_loss,
        real(2, 4, 3),
        simplex(2, 4, 3),
    ),
    program("optax.dice_loss", optax.losses.dice_loss, real(2, 4, 3), unit(2, 4, 3)),
    program("optax.l2_loss", optax.l2_loss, real(4, 3), real(4, 3)),
    program("optax.huber_loss", optax.huber_loss, real(4, 3), real(4, 3)),
    program("optax.log_cosh", optax.log_cosh, real(4, 3), real(4, 3)),
    program("optax.cosine_distance", optax.cosine_distance, real(4, 3), real(4, 3)),
    program("optax.cosine_similarity", optax.cosine_similarity, real(4, 3), real(4, 3)),
    program("optax.hinge_loss", optax.hinge_loss, real(6), lambda rng: rng.choice([-1.0, 1.0], 6)),
    program("optax.perceptron_loss", optax.losses.perceptron_loss, real(6), lambda rng: rng.choice([-1.0, 1.0], 6)),
    program("optax.multiclass_hinge_loss", optax.losses.multiclass_hinge_loss, _logits, _labels),
    program("optax.multiclass_sparsemax_loss", optax.losses.multiclass_sparsemax_loss, _logits, _labels),
    program("optax.kl_divergence", optax.kl_divergence, real(4, 5, high=-0.1), simplex(4, 5)),
    program(
        "optax.kl_divergence_with_log_targets", optax.losses.kl_divergence_with_log_targets, real(4, 5), real(4, 5)
    ),
    program("optax.convex_kl_divergence", optax.losses.convex_kl_divergence, real(4, 5), simplex(4, 5)),
    program("optax.ctc_loss", ctc, real(2, 6, 5), every=2),
    program("optax.ntxent", ntxent, real(4, 3)),
    program("optax.triplet_margin_loss", optax.losses.triplet_margin_loss, real(4, 3), real(4, 3), real(4, 3)),
    program("optax.ranking_softmax_loss", optax.losses.ranking_softmax_loss, real(4, 5), positive(4, 5)),
    program(
        "optax.squared_error of smooth_labels",
        lambda z, p: optax.softmax_cross_entropy(z, optax.smooth_labels(p, 0.1)),
        _logits,
        simplex(4, 5),
    ),
    *(
        program(
            f"optax.{make.__name__}, three steps",
            trained(make),
            real(low=0.01, high=0.1),
            real(3, 2),
            real(4, 3),
            every=2,
        )
        for make in (optax.sgd, optax.adam, optax.adamw, optax.rmsprop, optax.lion, optax.adabelief, optax.lamb)
    ),
    program("optax.global_norm", lambda a, b: optax.global_norm({"a": a, "b": b}), real(4), real(2, 3)),
    program("optax.projection_simplex", optax.projections.projection_simplex, real(5)),
    program("optax.projection_l2_ball", optax.projections.projection_l2_ball, real(5)),
)
