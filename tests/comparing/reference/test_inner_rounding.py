"""How far a value and a gradient are off where every result inside is a little off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.reference.inner_rounding import _signs, gradient_noise, value_noise

X = np.linspace(0.5, 1.5, 8, dtype=np.float32)
U = 2.0**-24


def traced(fun, *args, argnums=0):
    return trace_program(make_program(fun, args, argnums, None))


def test_the_value_moves_by_the_rounding_of_what_cancels():
    plain = value_noise(traced(lambda x: jnp.sum(jnp.exp(x)), X), U)
    assert 0.1 * U < plain < 10 * U * np.exp(X).sum()
    cancelling = value_noise(traced(lambda x: jnp.sum(jnp.exp(x) * 1e4 - jnp.exp(x + 9.21034)), X), U)
    assert 1e4 * U < cancelling < 1e7 * U


def test_what_moves_numbers_alone_does_not_round():
    assert value_noise(traced(lambda x: jnp.max(-x.reshape(2, 4).T[::-1]), X), U) == 0


def test_the_gradient_of_a_nearly_certain_softmax():
    def fun(x):
        return jnp.log(jax.nn.softmax(x))[0]

    (sure,) = gradient_noise(traced(fun, jnp.array([18.0, 0.0, 1.0])), 2.0**-53).values()
    (unsure,) = gradient_noise(traced(fun, jnp.array([0.5, 0.0, 1.0])), 2.0**-53).values()
    assert unsure < 1e-14 and 1e-10 < sure < 1e-6


def test_each_operand_that_is_differentiated_has_its_noise():
    found = gradient_noise(traced(lambda x, y: jnp.sum(jnp.sin(1e3 * x)) + jnp.sum(y**2), X, X, argnums=(0, 1)), U)
    assert set(found) == {0, 1} and found[1] < 10 * U < found[0]


def test_a_program_that_refuses_float64_says_nothing():
    def fun(x):
        found = jax.pure_callback(lambda x: np.sin(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return jnp.sum(jax.lax.stop_gradient(found) * x)

    assert value_noise(traced(fun, X), U) == 0 and gradient_noise(traced(fun, X), U) == {}


@pytest.mark.parametrize("shape", [(), (0,), (3, 1000)])
def test_signs(shape):
    signs = np.asarray(_signs(shape, 7))
    assert signs.shape == shape and set(np.abs(signs).ravel()) <= {1.0}
    if signs.size > 10:
        assert abs(signs.mean()) < 0.05 and abs((signs * np.asarray(_signs(shape, 8))).mean()) < 0.05
