"""What the recurrent networks share: the order of layers and steps, the state, and the errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.blocks.recurrence import Cell, over_a_sequence
from fnbackprop.models import recurrent, rnn
from tests.rules.checking import assert_close


def add(z, q, state):
    """A cell whose h is the sum of all that came in."""
    return (z + q,)


summing = over_a_sequence("sum", Cell(lambda *args: (add(*args), ()), lambda saved, dstate: (*dstate * 2, dstate), add))


def identity_layers(layers, width=2):
    """The input's and the recurrent product are the identity."""
    linear = {"w": jnp.eye(width)}
    return {"layers": [{"input": linear, "recurrent": linear}] * layers}


X = np.arange(6.0, dtype="float32").reshape(1, 3, 2)  # (batch, time, inputs)


def run(layers, state=None, **options):
    params = identity_layers(layers)
    start = recurrent.require_state("sum", params, X, state, 1)
    return jax.jit(lambda x: recurrent.apply_layers(summing, params, x, start, **options))(X)


def test_a_layer_runs_over_time():
    y, (h,) = run(1)
    np.testing.assert_array_equal(y, np.cumsum(X, axis=1))
    np.testing.assert_array_equal(h, [y[:, -1]])


def test_a_layer_reads_the_one_below():
    y, (h,) = run(2)
    once = np.cumsum(X, axis=1)
    np.testing.assert_array_equal(y, np.cumsum(once, axis=1))
    np.testing.assert_array_equal(h, [once[:, -1], y[:, -1]])


def test_a_given_state_is_where_it_goes_on():
    y, _ = run(1, {"h": 10 * jnp.ones((1, 1, 2))})
    np.testing.assert_array_equal(y, 10 + np.cumsum(X, axis=1))


def test_dropout_is_between_layers_alone():
    options = {"dropout": 0.5, "key": jax.random.key(0)}
    np.testing.assert_array_equal(run(1, **options)[0], run(1)[0])
    assert not np.array_equal(run(2, **options)[0], run(2)[0])


def test_each_gate_is_drawn_on_its_own():
    params = recurrent.init_layers(jax.random.key(0), inputs=3, hidden=4, layers=2, gates=3, dtype="float32")
    assert [layer["input"]["w"].shape for layer in params["layers"]] == [(3, 12), (4, 12)]
    for gate in np.split(np.asarray(params["layers"][0]["recurrent"]["w"]), 3, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(4), atol=1e-5)  # orthogonal


def test_errors_say_which_shape_is_expected():
    params = identity_layers(1)
    with pytest.raises(ValueError, match=r"sum: x of shape \(2,\) must be \(..., time, inputs\)"):
        recurrent.require_state("sum", params, np.ones(2), None, 1)
    with pytest.raises(ValueError, match=r"sum: h of shape \(1, 2\) must be .* = \(1, 1, 2\)"):
        recurrent.require_state("sum", params, X, {"h": jnp.ones((1, 2))}, 1)


def test_a_gradient_within_shard_map():
    """Its state of zeros is the same on all devices, and its inputs are not."""
    params = rnn.init(jax.random.key(0), inputs=2, hidden=3)
    x = jax.random.normal(jax.random.key(1), (4, 5, 2))
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(params, x):
        return jnp.sum(jnp.sin(rnn.apply(params, x)[0]))

    divided = jax.shard_map(
        lambda params, x: jax.lax.psum(loss(params, x), "i"),
        mesh=mesh, in_specs=(jax.P(), jax.P("i")), out_specs=jax.P(),
    )  # fmt: skip
    want = jax.grad(loss)(params, x)
    assert_close(jax.jit(fb.grad(divided))(params, x), want, 1e-5)
