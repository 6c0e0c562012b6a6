"""The state is a pytree of its own memory and of plain (not weak) types."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.training.step.state import TrainState, initial_state, own_buffers, require_floating
from tests.training.compiling import times_compiled


def test_initial_state_is_a_function_of_the_seed():
    def init(key):
        return {"w": jax.random.normal(key, (4,))}

    def loss(params, batch, key):
        return jnp.sum(params["w"])

    def state(seed):
        return initial_state(
            Experiment(
                name="s", init=init, loss=loss, batch=lambda step: 0, optimizer=optax.adam(1.0), steps=1, seed=seed
            )
        )

    np.testing.assert_array_equal(state(1).params["w"], state(1).params["w"])
    assert not np.array_equal(state(1).params["w"], state(2).params["w"])
    assert state(1).step == 0 and state(1).step.dtype == jnp.int32


def test_state_is_a_pytree_with_paths():
    state = TrainState({"w": 1.0}, (), 2, 3)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert paths == [".params['w']", ".step", ".key"]
    assert jax.tree.map(lambda leaf: leaf + 1, state) == TrainState({"w": 2.0}, (), 3, 4)


def test_own_buffers_copies_and_strips_weak_types():
    array, key = jnp.arange(3.0), jax.random.key(0)
    copied = own_buffers({"array": array, "key": key, "scalar": 0.5, "twice": array})
    assert copied["array"].unsafe_buffer_pointer() != array.unsafe_buffer_pointer()
    assert copied["array"].unsafe_buffer_pointer() != copied["twice"].unsafe_buffer_pointer()
    assert not copied["scalar"].weak_type
    assert copied["key"] == key
    np.testing.assert_array_equal(copied["array"], array)


def test_own_buffers_compile_nothing_for_arrays_and_outlive_those_they_were_copied_from():
    arrays = [jnp.asarray(np.random.default_rng(0).normal(size=(i, 17)), jnp.float32) for i in range(3, 6)]
    expected, before = [np.array(array) for array in arrays], times_compiled("copy")
    copied = own_buffers(arrays)
    assert times_compiled("copy") == before
    jax.jit(lambda arrays: [0 * array for array in arrays], donate_argnums=0)(arrays)
    assert all(array.is_deleted() for array in arrays)
    assert all(np.array_equal(x, y) for x, y in zip(copied, expected, strict=True))


@pytest.mark.parametrize(
    "params, message",
    [
        (
            {"act": jnp.tanh, "w": jnp.ones(2)},
            "parameter act is a function, tanh, which has no gradient. .* eqx.partition",
        ),
        (
            {"net": {"count": jnp.arange(2)}},
            "parameter net/count is an array of int32, .* in the closure of loss, .* in the model state",
        ),
        ({"rng": jax.random.key(0)}, "parameter rng is a random key, .* loss is given another key at every step"),
        ({"name": "mlp"}, "parameter name is 'mlp', a str, which has no gradient. Parameters are floating arrays"),
        (3, "what init returns is the integer 3, which has no gradient"),
    ],
)
def test_what_cannot_be_trained_is_named(params, message):
    with pytest.raises(ExperimentError, match=message):
        require_floating(params)
    require_floating({"w": [1.0, np.float32(2)], "z": jnp.complex64(1)})
