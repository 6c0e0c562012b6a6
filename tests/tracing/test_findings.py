"""What is found beside numbers that are not finite; and what is not said of healthy programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.tracing.findings import Concern
from fnbackprop.tracing.pipeline import trace

from .helpers import line_of

BOTH = pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])


def traced(fun, jitted, *args):
    return trace(jax.jit(fun) if jitted else fun, *args)


def only(found):
    (finding,) = found.findings
    return finding


# ---------------------------------------------------------------- programs with one thing to be found


def sigmoid_layers(ws, x):
    for w in ws:
        x = jax.nn.sigmoid(w * (x - 0.5))  # HERE
    return jnp.sum(x)


def residual_stream(ws, x):
    for w in ws:
        x = x + x @ w  # HERE
    return jnp.sum(x)


def falling(h):
    return lax.scan(lambda h, _: (0.9 * h, None), h, length=120)[0]  # HERE


def growing(h):
    return lax.scan(lambda h, _: (1.1 * h, None), h, length=120)[0]  # HERE


def growing_in_a_while_loop(h):
    return lax.while_loop(lambda s: s[0] < 120, lambda s: (s[0] + 1, 1.1 * s[1]), (0, h))[1]  # HERE


def two_dropouts(x, key):
    x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0)
    x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0)  # HERE
    return jnp.sum(x)


def half_precision(x):
    y = x.astype(jnp.float16)  # of its cotangent, nothing is left
    y = y.astype(jnp.float32)  # HERE
    return jnp.sum(y) * 1e-9


def half_precision_below_normal(x):
    y = x.astype(jnp.float16)  # a few bits of its cotangent are left
    y = y.astype(jnp.float32)  # HERE
    return jnp.sum(y) * 1e-6


def bfloat16(x):
    y = x.astype(jnp.bfloat16) * jnp.bfloat16(1e-30)  # HERE
    return jnp.sum(y * jnp.bfloat16(1e-30)).astype(jnp.float32)


def small_epsilon(x):
    return jnp.sum(1 / jnp.sqrt(x + 1e-8))  # HERE


def dead(x):
    h = jax.nn.relu(x - 10)  # HERE
    return jnp.sum(h * x)


def masked_nan(x):
    wrong = lax.stop_gradient(jnp.log(x - 10))  # HERE
    return jnp.sum(jnp.where(x < 5, x, wrong))


def saturated_tanh(x):
    h = jnp.tanh(10 * x)  # HERE
    return jnp.sum(h * x)


def saturated_logistic(x):
    h = jax.nn.sigmoid(-10 * x)  # HERE
    return jnp.sum(h * x)


def one_hot_softmax(x):
    p = jax.nn.softmax(100 * jnp.outer(x, jnp.arange(4.0)))  # HERE
    return jnp.sum(p**2)


def one_gain_of_many(ws, x):
    for i, w in enumerate(ws):
        x = x @ w if i != 5 else one_large(x, w)
    return jnp.mean(x)


def one_large(x, w):
    return (x @ (w * 1e7)) * 1e-7  # HERE


ONES = jnp.ones(16)
EYES = [jnp.eye(4, dtype="float32") for _ in range(30)]
PLANTED = [
    (sigmoid_layers, ([jnp.ones(()) for _ in range(60)], jnp.full(4, 0.5)), Concern.VANISHING, 0.25),
    (residual_stream, (EYES, jnp.ones((1, 4))), Concern.EXPLODING, 2),
    (falling, (1.0,), Concern.VANISHING, 0.9),
    (growing, (1.0,), Concern.EXPLODING, 1.1),
    (growing_in_a_while_loop, (1.0,), Concern.EXPLODING, 1.1),
    (two_dropouts, (ONES, jax.random.key(0)), Concern.SAME_KEY, None),
    (half_precision, (ONES,), Concern.UNDERFLOW, None),
    (half_precision_below_normal, (ONES,), Concern.UNDERFLOW, None),
    (bfloat16, (ONES,), Concern.UNDERFLOW, None),
    (small_epsilon, (ONES,), Concern.LOST, None),
    (dead, (ONES,), Concern.DEAD, None),
    (masked_nan, (ONES,), Concern.INTERNAL, None),
    (saturated_tanh, (ONES,), Concern.SATURATED, None),
    (saturated_logistic, (ONES,), Concern.SATURATED, None),
    (one_hot_softmax, (ONES,), Concern.SATURATED, None),
    (one_gain_of_many, (EYES[:12], jnp.ones((1, 4))), Concern.UNLIKE, None),
]


@BOTH
@pytest.mark.parametrize("fun, args, concern, factor", PLANTED, ids=lambda x: getattr(x, "__name__", None))
def test_planted_findings(fun, args, concern, factor, jitted):
    found = traced(fun, jitted, *args)
    finding = only(found)
    marked = one_large if fun is one_gain_of_many else fun
    assert (finding.concern, finding.place.line) == (concern, line_of(marked)), finding
    assert found.ok
    if factor is not None:
        assert finding.factor == pytest.approx(factor, rel=0.01)


def test_what_vanishing_is_said_of():
    layers = str(only(trace(sigmoid_layers, [jnp.ones(()) for _ in range(60)], jnp.full(4, 0.5))))
    assert (
        "each repeat of the line multiplies the cotangent from the loss by 0.25, 1/4, (logistic), 60 of them" in layers
    )
    assert "each step of the scan multiplies the cotangent of the carry by 0.9, 1/1.11, (mul)" in str(
        only(trace(falling, 1.0))
    )
    assert "each step of the while multiplies the cotangent of the carry by 1.1 (mul)" in str(
        only(trace(growing_in_a_while_loop, 1.0))
    )


def test_an_epsilon_that_counts_is_no_alarm():
    assert trace(small_epsilon, jnp.array([1e-6, 1.0])).findings == ()


def test_half_precision_below_normal_is_no_alarm_while_enough_bits_are_left():
    def loss(x):
        return jnp.sum(x.astype(jnp.float16).astype(jnp.float32)) * 2e-5

    assert trace(loss, ONES).findings == ()


def test_an_underflow_that_does_not_show_in_the_whole_is_no_alarm():
    """As that of a layer norm's variance, beside the cotangent of the residual stream."""

    def loss(x):
        y = x.astype(jnp.float16)
        return jnp.sum((y + y**2).astype(jnp.float32)) * 1e-4

    assert trace(loss, 1e-3 * ONES).findings == ()
    alone = trace(lambda x: jnp.sum((x.astype(jnp.float16) ** 2).astype(jnp.float32)) * 1e-4, 1e-3 * ONES)
    assert only(alone).concern is Concern.UNDERFLOW


def test_healthy_recurrent_network_is_no_alarm():
    random = np.random.default_rng(0)
    w, u = (jnp.asarray(random.normal(size=(8, 8)) / np.sqrt(8), jnp.float32) for _ in range(2))
    xs = jnp.asarray(random.normal(size=(12, 8)), jnp.float32)

    def loss(params):
        h, ys = lax.scan(lambda h, x: (jnp.tanh(h @ params[0] + x @ params[1]),) * 2, jnp.zeros(8), xs)
        return jnp.mean(ys**2)

    found = trace(loss, (w, u))
    assert found.ok and found.findings == ()
