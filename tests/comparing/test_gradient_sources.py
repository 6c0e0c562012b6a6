"""Both sources of a gradient."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.gradient_sources import gradient_function, value_and_grad_by
from fnbackprop.comparing.program import make_program


@pytest.mark.parametrize("backward", ["manual", "automatic"])
def test_both_backwards_differentiate(backward):
    value, gradient = value_and_grad_by(backward)(lambda x: jnp.sum(jnp.sin(x)))(jnp.arange(3.0))
    np.testing.assert_allclose(gradient, np.cos(np.arange(3.0)), rtol=1e-6)
    np.testing.assert_allclose(value, np.sum(np.sin(np.arange(3.0))), rtol=1e-6)


@pytest.mark.parametrize("backward", ["manual", "automatic"])
def test_gradient_function_gives_one_gradient_for_each_input(backward):
    program = make_program(lambda a, n, b: jnp.sum(a * b**n), (jnp.arange(3.0), 2, jnp.ones((3,))), (2, 0), None)
    _, (db, da) = gradient_function(program, backward)(program.inputs, program.others, np.float32(1))
    np.testing.assert_allclose(da, [1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(db, [0, 2, 4], rtol=1e-6)


def test_unknown_backward():
    with pytest.raises(ValueError, match="one of 'manual', 'fused', 'automatic', not 'both'"):
        value_and_grad_by("both")
