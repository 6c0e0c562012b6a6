"""Differences against known derivatives."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.numeric import (
    STEPS,
    best_step,
    differences,
    direction_scales,
    gaussian_direction,
    gradient_size,
    numeric_step,
)
from fnbackprop.comparing.program import make_program


def test_differences_of_a_cubic_are_exact_but_for_the_cube(x64):
    x = jnp.array([1.0, 2.0])
    program = make_program(lambda x: jnp.sum(x**3), (x,), 0, None)
    gradient = (3 * x**2,)
    (found,) = differences(program, gradient, gradient, 1e-3, [0])
    (direction,) = gaussian_direction(program.inputs, direction_scales(program.inputs), 0)
    np.testing.assert_allclose(found.manual, np.sum(3 * x**2 * direction), rtol=1e-12)
    remainder = np.sum(direction**3) * (1e-3 * np.array(STEPS)) ** 2
    np.testing.assert_allclose(found.slopes - found.manual, remainder, rtol=1e-3)
    np.testing.assert_allclose(found.value, 9, rtol=0.1)


def test_each_leaf_moves_by_its_own_size():
    inputs = {
        "huge": jnp.full((1000,), 1e6),
        "n": jnp.arange(3),
        "tiny": jnp.full((1000,), 1e-6),
        "zero": jnp.zeros((2,)),
    }
    scales = direction_scales(inputs)
    np.testing.assert_allclose([scales[0], scales[2]], [1e6, 1e-6], rtol=1e-6)
    assert 1e5 < scales[3] < 1e6
    huge, none, tiny, _ = gaussian_direction(inputs, scales, 1)
    assert none is None and huge.dtype == np.float32
    np.testing.assert_allclose([np.std(huge) / 1e6, np.std(tiny) / 1e-6], [1, 1], rtol=0.1)
    assert direction_scales([jnp.zeros((2,))]) == [1.0]


def test_gradient_size_is_the_spread_of_the_derivative():
    x = jnp.linspace(1.0, 2.0, 50)
    program = make_program(lambda x: jnp.sum(x**2), (x,), 0, None)
    found = differences(program, (2 * x,), (2 * x,), 1e-3, range(200))
    np.testing.assert_allclose(np.std([d.manual for d in found]), gradient_size(program, (2 * x,)), rtol=0.15)


def test_best_step_takes_the_flat_part():
    truth = np.array([[1.0], [2.0]])
    smooth = truth + np.array(STEPS) ** 2  # error 4 at the widest step
    chosen, allowed = best_step(smooth, noise=1e-9)
    assert chosen == len(STEPS) - 2 and np.max(np.abs(smooth[:, chosen] - truth[:, 0])) < allowed < 1
    chosen, _ = best_step(smooth, noise=10.0)
    assert chosen <= 2


@pytest.mark.parametrize("dtype, step", [("float64", 4.8e-6), ("float32", 3.9e-3)])
def test_numeric_step(dtype, step):
    np.testing.assert_allclose(numeric_step(dtype), step, rtol=0.01)
