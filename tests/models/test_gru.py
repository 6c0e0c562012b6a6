import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.models import gru
from tests.models.sampling import random_params

INPUTS, HIDDEN = 3, 5


def flax_layer(params, x, h):
    """One layer, a step at a time, by flax's GRUCell, which has the two biases of a gate as one."""
    w, b, r, c = (np.split(params[side][leaf], 3, -1) for side in ("input", "recurrent") for leaf in "wb")
    cell_params = {"hn": {"kernel": r[2], "bias": c[2]}, "in": {"kernel": w[2], "bias": b[2]}}
    for i, gate in enumerate("rz"):
        cell_params["i" + gate] = {"kernel": w[i], "bias": b[i] + c[i]}
        cell_params["h" + gate] = {"kernel": r[i]}
    cell, outputs = nn.GRUCell(HIDDEN), []
    for t in range(x.shape[1]):
        h, y = cell.apply({"params": cell_params}, h, x[:, t])
        outputs.append(y)
    return jnp.stack(outputs, axis=1), h


@pytest.mark.parametrize("from_zeros", [True, False])
def test_same_as_flax(from_zeros):
    params = random_params(gru.init, inputs=INPUTS, hidden=HIDDEN, layers=2)
    x = jax.random.normal(jax.random.key(1), (4, 6, INPUTS))
    state = jax.random.normal(jax.random.key(2), (2, 4, HIDDEN)) * float(not from_zeros)
    y, h = gru.apply(params, x, None if from_zeros else state)
    expected = x
    for i, layer in enumerate(params["layers"]):
        expected, layer_h = flax_layer(layer, expected, state[i])
        np.testing.assert_allclose(h[i], layer_h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_init():
    layer = gru.init(jax.random.key(0), inputs=20, hidden=10)["layers"][0]
    assert layer["input"]["w"].shape == (20, 30) and layer["recurrent"]["b"].shape == (30,)
    for r in np.split(layer["recurrent"]["w"], 3, axis=1):
        np.testing.assert_allclose(r.T @ r, np.eye(10), atol=1e-5)
    np.testing.assert_array_equal(gru.initial_state({"layers": [layer]}, (2,)), np.zeros((1, 2, 10)))


def test_errors():
    params = random_params(gru.init, inputs=INPUTS, hidden=HIDDEN)
    with pytest.raises(ValueError, match=r"gru: h of shape \(1, 2, 5\) must be .* \(1, 4, 5\) for x of \(4, 6, 3\)"):
        gru.apply(params, jnp.ones((4, 6, 3)), jnp.zeros((1, 2, 5)))
    with pytest.raises(ValueError, match=r"gru: x of shape \(3,\) must be \(..., time, inputs\)"):
        gru.apply(params, jnp.ones((3,)))
