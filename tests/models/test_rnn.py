import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.models import rnn
from tests.models.sampling import random_params

INPUTS, HIDDEN = 3, 5


def numpy_layer(params, x, h):
    """One layer, a step at a time."""
    w, b, r = (np.asarray(a) for a in (params["input"]["w"], params["input"]["b"], params["recurrent"]["w"]))
    outputs = []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ w + h @ r + b)
        outputs.append(h)
    return np.stack(outputs, axis=1), h


@pytest.mark.parametrize("from_zeros", [True, False])
def test_same_as_numpy(from_zeros):
    params = random_params(rnn.init, inputs=INPUTS, hidden=HIDDEN, layers=2)
    x = jax.random.normal(jax.random.key(1), (4, 6, INPUTS))
    state = jax.random.normal(jax.random.key(2), (2, 4, HIDDEN)) * float(not from_zeros)
    y, h = rnn.apply(params, x, None if from_zeros else state)
    expected = np.asarray(x)
    for i, layer in enumerate(params["layers"]):
        expected, layer_h = numpy_layer(layer, expected, np.asarray(state[i]))
        np.testing.assert_allclose(h[i], layer_h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_init():
    layer = rnn.init(jax.random.key(0), inputs=20, hidden=10)["layers"][0]
    assert layer["input"]["w"].shape == (20, 10) and "b" not in layer["recurrent"]
    r = layer["recurrent"]["w"]
    np.testing.assert_allclose(r.T @ r, np.eye(10), atol=1e-5)
    np.testing.assert_array_equal(rnn.initial_state({"layers": [layer]}, (2,)), np.zeros((1, 2, 10)))


def test_errors():
    params = random_params(rnn.init, inputs=INPUTS, hidden=HIDDEN)
    with pytest.raises(ValueError, match=r"rnn: h of shape \(1, 2, 5\) must be .* \(1, 4, 5\) for x of \(4, 6, 3\)"):
        rnn.apply(params, jnp.ones((4, 6, 3)), jnp.zeros((1, 2, 5)))
