"""An optimizer's first state is what its init returns, and takes no program to compile where that is constants."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb
from fnbackprop.training.step.constants import from_constants
from fnbackprop.training.step.state import initial_state, own_buffers
from tests.training.compiling import programs_compiled

PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32), "b": np.ones(7, np.float32)}
OPTIMIZERS = {
    "adam": optax.adam(1e-3),
    "low precision": optax.adamw(1e-3, mu_dtype="bfloat16"),
    "a schedule": optax.sgd(optax.linear_schedule(0.1, 0.0, 10), momentum=0.9),
    "ones": optax.adagrad(0.1),
    "adafactor": optax.adafactor(0.1),
    "nothing": optax.sgd(0.1),
    "injected": optax.inject_hyperparams(optax.adam)(0.3),
    "the parameters": optax.contrib.schedule_free_sgd(0.1),
    "of both": optax.chain(optax.ema(0.9), optax.contrib.schedule_free_adamw(0.1)),
    "a key": optax.add_noise(0.1, 0.5, jax.random.key(3)),
    "numbers": optax.GradientTransformation(lambda params: float(jnp.sum(params["w"])), lambda *_: None),
    "computed": optax.GradientTransformation(lambda params: jax.tree.map(jnp.square, params), lambda *_: None),
    "python": optax.GradientTransformation(lambda params: (2, 0.5, True, np.arange(3)), lambda *_: None),
}


def facts(leaf):
    """Its type and where it lies; and its numbers."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return (leaf.shape, leaf.dtype, leaf.weak_type, leaf.committed), np.asarray(leaf)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("under", ["eager", "jit"])
def test_it_is_what_init_returns(kind, under):
    init = OPTIMIZERS[kind].init
    if under == "jit" and kind in ("numbers",):
        pytest.skip("it cannot be traced")
    call = jax.jit(lambda params: from_constants(init, params)) if under == "jit" else lambda p: from_constants(init, p)
    found, expected = own_buffers(call(PARAMS)), own_buffers(init(PARAMS))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert facts(ours)[0] == facts(theirs)[0]
        np.testing.assert_array_equal(facts(ours)[1], facts(theirs)[1])


def test_a_state_lies_where_committed_parameters_do():
    params = jax.device_put(PARAMS, jax.devices()[-1])
    found = from_constants(optax.adam(0.1).init, params)
    assert all(leaf.devices() == {jax.devices()[-1]} for leaf in jax.tree.leaves(found[0].mu))


def test_it_compiles_nothing():
    shapes = [(i, 11) for i in range(3, 9)]  # which no other test has
    params = {str(shape): np.ones(shape, np.float32) for shape in shapes}
    experiment = fb.Experiment(
        name="constants", init=lambda key: params, loss=lambda params, batch, key: 0.0, batch=lambda step: 0,
        optimizer=optax.adam(0.1), steps=1, ema=0.9, skip_nonfinite=1,
    )  # fmt: skip
    experiment.keys()
    before = programs_compiled()
    initial_state(experiment)
    assert programs_compiled() == before
