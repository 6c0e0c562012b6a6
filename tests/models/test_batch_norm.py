"""Batch normalisation against NumPy in float64, and its running statistics."""

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb
from fnbackprop.models import batch_norm

RANDOM = np.random.default_rng(0)
PARAMS = {"scale": jnp.array([0.5, 2.0, -1.0]), "bias": jnp.array([0.0, 1.0, 3.0])}
STATE = {"mean": jnp.array([1.0, 0.0, -2.0]), "variance": jnp.array([1.0, 4.0, 0.25])}
X = 2.0 + 3.0 * RANDOM.normal(size=(4, 5, 3)).astype(np.float32)


def normalised(x, mean, variance):
    x, mean, variance = (np.asarray(part, np.float64) for part in (x, mean, variance))
    return np.asarray(PARAMS["scale"]) * (x - mean) / np.sqrt(variance + 1e-5) + np.asarray(PARAMS["bias"])


def test_training_uses_the_batch_and_moves_the_running_statistics():
    y, state = jax.jit(lambda x: batch_norm.apply(PARAMS, STATE, x, training=True, momentum=0.75))(X)
    rows = X.reshape(20, 3).astype(np.float64)
    np.testing.assert_allclose(y, normalised(X, rows.mean(0), rows.var(0)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["mean"], 0.75 * STATE["mean"] + 0.25 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state["variance"], 0.75 * STATE["variance"] + 0.25 * rows.var(0, ddof=1), rtol=1e-5)


def test_evaluation_uses_the_running_statistics():
    y, state = batch_norm.apply(PARAMS, STATE, X, training=False)
    np.testing.assert_allclose(y, normalised(X, STATE["mean"], STATE["variance"]), rtol=1e-5, atol=1e-6)
    assert state is STATE


def test_low_precision_keeps_its_dtype_and_the_statistics_theirs():
    y, state = batch_norm.apply(PARAMS, STATE, jnp.asarray(X, jnp.bfloat16), training=True)
    assert y.dtype == jnp.bfloat16 and state["mean"].dtype == jnp.float32


def test_no_gradient_flows_through_the_running_statistics():
    def loss(x):
        y, state = batch_norm.apply(PARAMS, STATE, x, training=True)
        return jnp.sum(jnp.sin(y)), state

    def of_state(x):
        return jnp.sum(batch_norm.apply(PARAMS, STATE, x, training=True)[1]["mean"])

    np.testing.assert_allclose(
        fb.grad(loss, has_aux=True)(X)[0], jax.grad(loss, has_aux=True)(X)[0], rtol=1e-4, atol=1e-6
    )
    assert not np.any(fb.grad(of_state)(X))
