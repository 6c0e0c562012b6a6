"""Models of other libraries with a state beside their parameters: batch normalisation, dropout's counts."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fnbackprop as fb

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def run(init, loss):
    """Train for two steps by both backward passes; returns the initial model state and the last one."""
    experiment = fb.Experiment(
        name="stateful", init=init, loss=loss, has_state=True, batch=lambda step: X, optimizer=optax.sgd(0.0), steps=2
    )
    state = fb.train(experiment, backward="both", directory=None, progress=False)
    return experiment.initial(experiment.keys()[0])[1], state.model_state


def moved(running, batch, times=2, momentum=0.99):
    """A running statistic after some equal batches."""
    return batch + momentum**times * (running - batch)


def test_flax_linen():
    net = nn.BatchNorm(use_running_average=False)

    def init(key):
        variables = net.init(key, X)
        return variables["params"], variables["batch_stats"]

    def loss(params, batch_stats, batch, key):
        y, after = net.apply({"params": params, "batch_stats": batch_stats}, batch, mutable=["batch_stats"])
        return jnp.mean(jnp.sin(y)), after["batch_stats"]

    _, after = run(init, loss)
    np.testing.assert_allclose(after["mean"], moved(0, X.mean(0)), rtol=1e-5)
    np.testing.assert_allclose(after["var"], moved(1, X.var(0)), rtol=1e-5)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.dropout = nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(x))


def test_flax_nnx():
    graph = nnx.graphdef(Net(nnx.Rngs(0)))

    def init(key):
        return nnx.split(Net(nnx.Rngs(key)), nnx.Param, ...)[1:]

    def loss(params, model_state, batch, key):
        model = nnx.merge(graph, params, model_state)
        value = jnp.mean(jnp.sin(model(batch)))
        return value, nnx.state(model, nnx.Not(nnx.Param))

    before, after = run(init, loss)
    np.testing.assert_allclose(after["norm"]["mean"][...], moved(0, X.mean(0)), rtol=1e-5)
    counts = [state["dropout"]["rngs"]["count"][...] for state in (before, after)]
    assert counts[1] == counts[0] + 2


def test_equinox():
    make = eqx.nn.make_with_state(lambda: eqx.nn.BatchNorm(3, "batch", mode="batch"))
    template, _ = make()

    def init(key):
        model, state = make()
        return eqx.filter(model, eqx.is_inexact_array), state

    def loss(params, model_state, batch, key):
        model = eqx.combine(params, eqx.filter(template, eqx.is_inexact_array, inverse=True))
        y, after = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(batch, model_state)
        return jnp.mean(jnp.sin(y)), after

    _, after = run(init, loss)
    mean = next(leaf for leaf in jax.tree.leaves(after) if leaf.shape == (3,))
    np.testing.assert_allclose(mean, moved(0, X.mean(0)), rtol=1e-5)
