"""Rules that give a slope to what has none: straight-through estimators pass, those that are nearly so do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.comparing.results import Verdict

X = np.random.default_rng(0).normal(size=8).astype("float32") * 3


def with_slope(primal, slope):
    function = jax.custom_vjp(primal)
    function.defvjp(lambda x: (primal(x), x), lambda x, dy: ((dy * slope(x)).astype(x.dtype),))
    return lambda x: jnp.sum(jnp.sin(function(x).astype(jnp.float32)))


def spike(x):
    return (x > 0).astype(x.dtype)


def sigmoids_slope(x):
    return jax.nn.sigmoid(x) * (1 - jax.nn.sigmoid(x))


def stopped_sine(x):
    return jnp.sin(jax.lax.stop_gradient(x))


RIGHT = {
    "round": (lambda x: jnp.round(x), jnp.ones_like),
    "clipped": (jnp.sign, lambda x: (jnp.abs(x) < 2).astype(x.dtype)),
    "quantized": (lambda x: jnp.clip(jnp.round(x * 128) / 128, -1, 1), jnp.ones_like),
    "surrogate": (spike, sigmoids_slope),
    "steep": (spike, lambda x: 4 * sigmoids_slope(4 * x)),
    "half": (lambda x: (jnp.sign(x) + 1) / 2, lambda x: jnp.full_like(x, 0.5)),
    "stopped": (stopped_sine, jnp.cos),
}
WRONG = {
    "round": (lambda x: jnp.round(x), lambda x: jnp.full_like(x, 1.05)),
    "clipped": (jnp.sign, lambda x: jnp.where(jnp.abs(x) < 2, 0.95, 0)),
    "stopped": (stopped_sine, lambda x: 1.05 * jnp.cos(x)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", RIGHT)
def test_an_estimator_passes(name, dtype):
    found = fb.compare(with_slope(*RIGHT[name]), jnp.asarray(X, dtype), progress=False)
    assert found.verdict is Verdict.PASS, str(found)


@pytest.mark.parametrize("x", [X, np.float32(0.3)], ids=["vector", "scalar"])
@pytest.mark.parametrize("name", WRONG)
def test_one_that_is_a_little_off_fails(name, x):
    found = fb.compare(with_slope(*WRONG[name]), x, progress=False)
    assert found.verdict is Verdict.FAIL, str(found)
    assert found.equations[0].error == pytest.approx(0.05, rel=0.1)


def test_a_surrogate_that_happens_to_be_near_one_passes():
    """At one point its slope may be any number; it is another one elsewhere."""
    found = fb.compare(with_slope(spike, lambda x: 4 * sigmoids_slope(x)), np.float32(0.4), progress=False)
    assert found.verdict is Verdict.PASS, str(found)


def test_a_slope_that_is_declared_is_meant():
    @jax.custom_vjp
    def damped(x):
        return jnp.round(x)

    damped.defvjp(lambda x: (jnp.round(x), None), lambda _, dy: (0.9 * dy,))
    assert fb.compare(lambda x: jnp.sum(damped(x) ** 2), X, intended=("damped",), progress=False).ok
    assert not fb.compare(lambda x: jnp.sum(damped(x) ** 2), X, progress=False).ok
