"""How much of a gradient is rounding noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.gradient_sources import gradient_function
from fnbackprop.comparing.noise import measured_noise, narrow_noise, shaken
from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.tolerance import facts_of


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.complex64])
def test_shaken_changes_the_last_bit_of_floats_alone(dtype):
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (50,)), dtype)
    tree = {"x": x, "n": jnp.arange(3), "zero": jnp.zeros((2,)), "key": jax.random.key(0)}
    moved = shaken(tree, 0, 0.0)
    eps = float(jnp.finfo(dtype).eps)
    change = np.abs(np.asarray(moved["x"] - x, np.complex128 if dtype == np.complex64 else np.float64))
    assert moved["x"].dtype == x.dtype and 0 < change.min() and change.max() <= 2.1 * eps
    np.testing.assert_array_equal(moved["n"], tree["n"])
    np.testing.assert_array_equal(moved["zero"], tree["zero"])
    assert moved["key"] == tree["key"]
    assert not np.array_equal(shaken(tree, 1, 0.0)["x"], moved["x"])


def test_noise_sees_conditioning():
    def cancelling(x):  # the gradient is the small difference of large numbers
        return jnp.sum(jnp.sin(1000.0 * x))

    program = make_program(cancelling, (jnp.linspace(1.0, 2.0, 30),), 0, None)
    function = gradient_function(program, "automatic")
    reference = function(program.inputs, program.others, np.float32(1))
    noise = measured_noise(program, facts_of(trace_program(program)), function, reference)
    assert 1e-5 < noise[1] < 1e-2


def test_what_cancels_inside_is_seen_in_float32():
    """The gradient of a softmax that is nearly certain: shaking the inputs does not tell, the same in float32 does."""

    def fun(x):
        return jnp.dot(jnp.array([1.0, 2.0, 3.0], x.dtype), jax.nn.softmax(x))

    with jax.enable_x64(True):
        program = make_program(fun, (jnp.asarray([0.0, 12.0, 1.0], "float64"),), 0, None)
        noise = narrow_noise(program, "automatic", jax.value_and_grad(fun)(*program.inputs))
    assert 1e-12 < noise[1] < 1e-9


def test_float32_says_nothing_of_a_program_that_draws_otherwise_there():
    def fun(x):
        return jnp.sum(x * jax.random.normal(jax.random.key(0), x.shape, x.dtype))

    with jax.enable_x64(True):
        program = make_program(fun, (jnp.ones(3),), 0, None)
        assert narrow_noise(program, "automatic", jax.value_and_grad(fun)(*program.inputs)) == [0, 0]
