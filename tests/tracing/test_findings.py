"""What is found beside numbers that are not finite; and what is not said of healthy programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.tracing.findings import Concern
from fnbackprop.tracing.pipeline import trace

from .helpers import line_of


def only(found):
    (finding,) = found.findings
    return finding


def sigmoid_layers(ws, x):
    for w in ws:
        x = jax.nn.sigmoid(w * (x - 0.5))  # HERE
    return jnp.sum(x)


def test_sixty_sigmoid_layers_vanish_by_a_quarter():
    finding = only(trace(jax.jit(sigmoid_layers), [jnp.ones(()) for _ in range(60)], jnp.full(4, 0.5)))
    assert finding.concern is Concern.VANISHING and finding.place.line == line_of(sigmoid_layers)
    assert finding.factor == pytest.approx(0.25, rel=1e-3) and "60" in finding.sentence


def residual_stream(ws, x):
    for w in ws:
        x = x + x @ w  # HERE
    return jnp.sum(x)


def test_an_exploding_residual_stream():
    ws = [jnp.eye(4, dtype="float32") for _ in range(30)]
    finding = only(trace(residual_stream, ws, jnp.ones((1, 4))))
    assert finding.concern is Concern.EXPLODING and finding.place.line == line_of(residual_stream)
    assert finding.factor == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("factor, concern", [(0.9, Concern.VANISHING), (1.1, Concern.EXPLODING)])
def test_recurrences(factor, concern):
    def recurrence(h):
        return lax.scan(lambda h, _: (factor * h, None), h, length=120)[0]

    finding = only(trace(jax.jit(recurrence), 1.0))
    assert finding.concern is concern and finding.factor == pytest.approx(factor, rel=1e-3)
    assert finding.place.function.startswith("test_recurrences") and "step of the scan" in finding.sentence


def two_dropouts(x, key):
    x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0)
    x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0)  # HERE
    return jnp.sum(x)


def test_one_key_in_two_dropouts():
    finding = only(trace(jax.jit(two_dropouts), jnp.ones(8), jax.random.key(0)))
    assert finding.concern is Concern.SAME_KEY and finding.place.line == line_of(two_dropouts)


def half_precision(x):
    y = x.astype(jnp.float16)  # of its cotangent, nothing is left
    y = y.astype(jnp.float32)  # HERE
    return jnp.sum(y) * 1e-9


def test_underflow():
    finding = only(trace(half_precision, jnp.ones(8)))
    assert finding.concern is Concern.UNDERFLOW and finding.place.line == line_of(half_precision)


def small_epsilon(x):
    return jnp.sum(1 / jnp.sqrt(x + 1e-8))  # HERE


def test_an_epsilon_that_is_rounded_away():
    finding = only(trace(small_epsilon, jnp.ones(4)))
    assert finding.concern is Concern.LOST and finding.place.line == line_of(small_epsilon)
    assert trace(small_epsilon, jnp.array([1e-6, 1.0])).findings == ()


def dead(x):
    h = jax.nn.relu(x - 10)  # HERE
    return jnp.sum(h * x)


def test_dead_units():
    finding = only(trace(jax.jit(dead), jnp.ones(16)))
    assert finding.concern is Concern.DEAD and finding.place.line == line_of(dead)


def masked_nan(x):
    wrong = lax.stop_gradient(jnp.log(x - 10))  # HERE
    return jnp.sum(jnp.where(x < 5, x, wrong))


def test_a_masked_nan_is_internal_only():
    found = trace(masked_nan, jnp.ones(4))
    assert found.ok and only(found).concern is Concern.INTERNAL
    assert only(found).place.line == line_of(masked_nan)


def test_healthy_recurrent_network_is_no_alarm():
    random = np.random.default_rng(0)
    w, u = (jnp.asarray(random.normal(size=(8, 8)) / np.sqrt(8), jnp.float32) for _ in range(2))
    xs = jnp.asarray(random.normal(size=(12, 8)), jnp.float32)

    def loss(params):
        h, ys = lax.scan(lambda h, x: (jnp.tanh(h @ params[0] + x @ params[1]),) * 2, jnp.zeros(8), xs)
        return jnp.mean(ys**2)

    found = trace(loss, (w, u))
    assert found.ok and found.findings == ()
