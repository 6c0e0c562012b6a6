import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.models import lstm
from tests.models.sampling import random_params

KEY = jax.random.key(0)
INPUTS, HIDDEN = 3, 5


def flax_layer(params, x, h, c):
    """One layer, a step at a time, by flax's LSTMCell with the same parameters."""
    w, b, r = (np.split(a, 4, -1) for a in (params["input"]["w"], params["input"]["b"], params["recurrent"]["w"]))
    cell_params = {}
    for i, gate in enumerate("ifgo"):
        cell_params["i" + gate] = {"kernel": w[i]}
        cell_params["h" + gate] = {"kernel": r[i], "bias": b[i]}
    cell = nn.LSTMCell(HIDDEN)
    outputs = []
    for t in range(x.shape[1]):
        (c, h), y = cell.apply({"params": cell_params}, (c, h), x[:, t])
        outputs.append(y)
    return jnp.stack(outputs, axis=1), h, c


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("from_zeros", [True, False])
def test_same_as_flax(layers, from_zeros):
    params = random_params(lstm.init, inputs=INPUTS, hidden=HIDDEN, layers=layers)
    x = jax.random.normal(jax.random.key(1), (4, 6, INPUTS))
    state = jax.random.normal(jax.random.key(2), (2, layers, 4, HIDDEN))
    state = jnp.zeros_like(state) if from_zeros else state
    y, (h, c) = lstm.apply(params, x, None if from_zeros else tuple(state))
    expected = x
    for i, layer in enumerate(params["layers"]):
        expected, layer_h, layer_c = flax_layer(layer, expected, state[0, i], state[1, i])
        np.testing.assert_allclose(h[i], layer_h, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(c[i], layer_c, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[:, -1], h[-1])


def test_two_halves_are_the_whole():
    params = random_params(lstm.init, inputs=INPUTS, hidden=HIDDEN, layers=2)
    x = jax.random.normal(jax.random.key(1), (4, 6, INPUTS))
    whole, final = lstm.apply(params, x)
    first, state = lstm.apply(params, x[:, :3])
    second, state = lstm.apply(params, x[:, 3:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jnp.stack(state), jnp.stack(final), rtol=1e-5, atol=1e-6)


def test_an_output_sees_nothing_of_later_inputs():
    params = random_params(lstm.init, inputs=INPUTS, hidden=HIDDEN, layers=2)
    x = jax.random.normal(jax.random.key(1), (4, 6, INPUTS))
    y, _ = lstm.apply(params, x)
    changed, _ = lstm.apply(params, x.at[:, 4].add(1.0))
    np.testing.assert_array_equal(changed[:, :4], y[:, :4])
    assert np.all(np.any(changed[:, 4:] != y[:, 4:], axis=-1))


@pytest.mark.parametrize("batch_shape", [(), (2, 4), (0,)])
def test_any_batch_axes(batch_shape):
    params = random_params(lstm.init, inputs=INPUTS, hidden=HIDDEN)
    x = jax.random.normal(jax.random.key(1), (*batch_shape, 6, INPUTS))
    y, (h, c) = lstm.apply(params, x)
    flat, _ = lstm.apply(params, x.reshape(-1, 6, INPUTS))
    np.testing.assert_allclose(y, flat.reshape(*batch_shape, 6, HIDDEN), rtol=1e-5, atol=1e-6)
    assert h.shape == c.shape == (1, *batch_shape, HIDDEN)


def test_no_steps_give_back_the_state():
    params = random_params(lstm.init, inputs=INPUTS, hidden=HIDDEN)
    state = jnp.ones((1, 4, HIDDEN)), jnp.full((1, 4, HIDDEN), 2.0)
    y, (h, c) = lstm.apply(params, jnp.ones((4, 0, INPUTS)), state)
    assert y.shape == (4, 0, HIDDEN)
    np.testing.assert_array_equal(h, state[0])
    np.testing.assert_array_equal(c, state[1])


def test_dropout_is_between_layers_only():
    """One layer has no place for it; in two, the final state of the first is as without, and the second's is not."""
    single = random_params(lstm.init, inputs=INPUTS, hidden=HIDDEN)
    x = jax.random.normal(jax.random.key(1), (4, 6, INPUTS))
    np.testing.assert_array_equal(lstm.apply(single, x, dropout=0.5, key=KEY)[0], lstm.apply(single, x)[0])
    double = random_params(lstm.init, inputs=INPUTS, hidden=HIDDEN, layers=2)
    _, (h, _) = lstm.apply(double, x)
    _, (dropped, _) = lstm.apply(double, x, dropout=0.5, key=KEY)
    np.testing.assert_array_equal(dropped[0], h[0])
    assert np.all(np.any(dropped[1] != h[1], axis=-1))


def test_init():
    layer = lstm.init(KEY, inputs=200, hidden=100, forget_bias=1.5)["layers"][0]
    i, f, g, o = np.split(layer["input"]["b"], 4)
    np.testing.assert_array_equal([i, f, g, o], [[0.0] * 100, [1.5] * 100, [0.0] * 100, [0.0] * 100])
    for w in np.split(layer["input"]["w"], 4, axis=1):
        np.testing.assert_allclose(np.std(w), np.sqrt(2 / (200 + 100)), rtol=0.02)
    recurrent = np.split(layer["recurrent"]["w"], 4, axis=1)
    for r in recurrent:
        np.testing.assert_allclose(r.T @ r, np.eye(100), atol=1e-5)
    assert np.max(np.abs(recurrent[0] - recurrent[1])) > 0.1
    assert "b" not in layer["recurrent"]


@pytest.mark.parametrize(
    "shape, state_shape, message",
    [
        ((3,), None, r"x of shape \(3,\) must be \(..., time, inputs\)"),
        ((4, 6, 2), None, "must have 3 features"),
        ((4, 6, 3), (1, 2, 5), r"h of shape \(1, 2, 5\) must be .* \(1, 4, 5\) for x of \(4, 6, 3\)"),
    ],
)
def test_errors(shape, state_shape, message):
    params = random_params(lstm.init, inputs=INPUTS, hidden=HIDDEN)
    state = None if state_shape is None else (jnp.zeros(state_shape), jnp.zeros(state_shape))
    with pytest.raises(ValueError, match=message):
        lstm.apply(params, jnp.ones(shape), state)
