"""The measured responses of optax chains, and where the real iteration diverges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.balancing.response import compare_with_actual, measure_response

pytestmark = pytest.mark.usefixtures("x64")

SHAPE = {"w": np.linspace(0.5, 1.5, 6).reshape(2, 3), "b": np.array([-1.0, 2.0])}
GAINS = {"w": np.array([[1.0, 2.0, 0.5], [3.0, 1.0, 1.0]]), "b": np.array([0.1, 4.0])}


@pytest.fixture(autouse=True)
def standard_promotion():
    """As optax needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def measured(optimizer, state=None):
    params = jax.tree.map(jnp.asarray, SHAPE)
    state = optimizer.init(params) if state is None else state
    update = lambda g, s: optimizer.update(g, s, params)  # noqa: E731
    agreement = compare_with_actual(update, state, params)
    return measure_response(update, state, params, jax.random.key(0), agreement=agreement)


def state_after(optimizer, steps):
    """Its state after so many equal gradients."""
    params = jax.tree.map(jnp.asarray, SHAPE)
    return jax.lax.fori_loop(
        0, steps, lambda _, state: optimizer.update(params, state, params)[1], optimizer.init(params)
    )


def scale_by_gains():
    return optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, GAINS))


def delayed():
    """An optimizer that applies each gradient one step later."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda updates, state, params=None: (state, updates)
    )


def first_divergent(optimizer):
    """The curvature above which theta, from 1 on, diverges at a learning rate of 1, by bisection."""

    @jax.jit
    def size_after(curvature):
        def turn(carry, _):
            theta, state = carry
            updates, state = optimizer.update(curvature * theta, state, theta)
            return (optax.apply_updates(theta, updates), state), jnp.abs(theta)

        theta = jnp.ones(())
        return jnp.max(jax.lax.scan(turn, (theta, optimizer.init(theta)), None, length=20000)[1][-200:])

    low, high = 1e-3, 100.0
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if not size_after(middle) <= 10 else (middle, high)
    return low


ITERATIONS = {
    "gradient descent": (optax.sgd(1.0), 2),
    "heavy ball": (optax.sgd(1.0, momentum=0.9), 3.8),
    "Nesterov": (optax.sgd(1.0, momentum=0.9, nesterov=True), 3.8 / 2.8),
    "average": (optax.chain(optax.ema(0.9, debias=False), optax.scale(-1.0)), 38),
    "delayed": (optax.chain(delayed(), optax.scale(-1.0)), 1),
}


@pytest.mark.parametrize("name", ITERATIONS)
def test_critical_rates_are_where_the_iteration_diverges(name):
    optimizer, formula = ITERATIONS[name]
    found = measured(optimizer)
    assert found.is_linear and found.inseparable < 1e-6, found
    critical = found.critical.curvature / float(found.gain["b"][0])
    np.testing.assert_allclose(critical, formula, rtol=1e-5)
    np.testing.assert_allclose(first_divergent(optimizer), critical, rtol=2e-3)


def test_the_oscillation_of_a_delayed_gradient_is_slower():
    assert measured(ITERATIONS["delayed"][0]).critical.angle == pytest.approx(np.pi / 3, rel=1e-6)
    assert measured(ITERATIONS["heavy ball"][0]).critical.angle == np.pi


def test_adam():
    """38 / lambda_P with beta1 = 0.9, and P the second moments of the state."""
    optimizer = optax.adam(1e-2, b2=0.99)
    found = measured(optimizer, state_after(optimizer, 3000))
    assert found.is_linear and found.critical.angle == np.pi
    moment = jax.tree.map(lambda g: np.sqrt(0.99 * g**2) + 1e-8, SHAPE)  # after a gradient of zero
    for gain, divisor in zip(jax.tree.leaves(found.gain), jax.tree.leaves(moment), strict=True):
        np.testing.assert_allclose(found.critical.curvature / gain * 1e-2, 38 * divisor, rtol=1e-5)


def test_gains_of_single_parameters():
    found = measured(optax.chain(scale_by_gains(), optax.scale(-0.5)))
    for gain, known in zip(jax.tree.leaves(found.gain), jax.tree.leaves(GAINS), strict=True):
        np.testing.assert_allclose(gain, 0.5 * known, rtol=1e-12)


def test_schedules_count_as_they_stand():
    optimizer = optax.sgd(optax.linear_schedule(1.0, 0.0, 10))
    np.testing.assert_allclose(measured(optimizer, state_after(optimizer, 4)).gain["b"], 0.6, rtol=1e-6)


def test_weight_decay_is_no_response_to_the_gradient():
    np.testing.assert_allclose(measured(optax.adamw(1e-3)).deviation, measured(optax.adam(1e-3)).deviation, rtol=1e-6)
    decayed = measured(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.2)))
    np.testing.assert_allclose(decayed.gain["b"], 0.2, rtol=1e-12)
    assert decayed.deviation < 1e-12


def test_a_clipped_gradient_is_not_linear():
    optimizer = optax.chain(optax.clip_by_global_norm(0.1 * float(optax.tree.norm(SHAPE))), optax.sgd(1.0))
    found = measured(optimizer)
    assert found.is_diagonal and not found.is_linear and found.clipped == pytest.approx(0.1)
    assert "clipped" in found.why_not_linear
    assert measured(optax.chain(optax.clip_by_global_norm(100.0), optax.sgd(1.0))).is_linear


@pytest.mark.parametrize(
    "optimizer", [optax.lion(1e-3), optax.contrib.muon(1e-2), optax.sign_sgd(0.1)], ids=["lion", "muon", "sign"]
)
def test_what_has_no_linear_response_says_so(optimizer):
    found = measured(optimizer)
    assert not found.is_linear and found.why_not_linear


def test_a_matrix_is_no_gain_for_each_parameter():
    mix = optax.stateless(lambda updates, params: {"w": updates["w"] + updates["w"][::-1], "b": updates["b"]})
    found = measured(optax.chain(mix, optax.sgd(1.0)))
    assert not found.is_diagonal and "others" in found.why_not_linear


def test_different_momenta_are_seen():
    parts = {"a": optax.sgd(1.0), "b": optax.sgd(1.0, momentum=0.9)}
    found = measured(optax.multi_transform(parts, {"w": "a", "b": "b"}))
    assert found.is_diagonal and found.inseparable > 0.1
    np.testing.assert_allclose(found.gain["w"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(found.gain["b"], 1 / 1.9, rtol=1e-5)
