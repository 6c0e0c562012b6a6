"""A function along directions, against known derivatives."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.numeric.directions import (
    STEPS,
    DirectionalEvaluator,
    direction_scales,
    gaussian_direction,
    gradient_size,
    numeric_step,
)
from fnbackprop.comparing.program import make_program, trace_program


def evaluator(fun, *args, **options):
    program = make_program(fun, args, 0, None)
    return program, DirectionalEvaluator(program, trace_program(program), **options)


@pytest.mark.parametrize("low", [False, True])
def test_differences_of_a_cubic(low):
    x = jnp.array([1.0, 2.0])
    program, differences = evaluator(lambda x: jnp.sum(x**3), x, low=low)
    gradient = (3 * x**2,)
    found = differences.along(gradient, gradient, 0)
    (direction,) = gaussian_direction(program.inputs, direction_scales(program.inputs), 0)
    slope = np.sum(3 * np.asarray(x) ** 2 * direction)
    np.testing.assert_allclose([found.manual, found.automatic], slope, rtol=1e-6)
    np.testing.assert_allclose(found.slopes.central, slope, rtol=1e-3 if low else 1e-9)
    np.testing.assert_allclose(found.slopes.here, 9, rtol=1e-6)
    np.testing.assert_allclose(found.slopes.lengths, numeric_step("float32" if low else "float64") * np.array(STEPS))


def test_one_leaf_alone_moves_alone():
    _, differences = evaluator(lambda p: jnp.sum(p["a"]) + 10.0 * jnp.sum(p["b"]), {"a": jnp.ones(3), "b": jnp.ones(3)})
    gradient = ({"a": jnp.ones(3), "b": jnp.full((3,), 10.0)},)
    both, first = (differences.along(gradient, gradient, 0, leaf) for leaf in (None, 0))
    second = differences.along(gradient, gradient, 0, 1)
    np.testing.assert_allclose(first.manual + second.manual, both.manual, rtol=1e-12)
    np.testing.assert_allclose(first.slopes.central, first.manual, rtol=1e-8)


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
    assert none is None and huge.dtype == np.float64
    np.testing.assert_allclose([np.std(huge) / 1e6, np.std(tiny) / 1e-6], [1, 1], rtol=0.1)
    assert direction_scales([jnp.zeros((2,))]) == [1.0]


def test_gradient_size_is_the_spread_of_the_derivative():
    x = np.linspace(1.0, 2.0, 50)
    program = make_program(lambda x: jnp.sum(x**2), (x,), 0, None)
    scales = direction_scales(program.inputs)
    slopes = [np.sum(2 * x * gaussian_direction(program.inputs, scales, seed)[0]) for seed in range(200)]
    np.testing.assert_allclose(np.std(slopes), gradient_size(program, (2 * x,)), rtol=0.15)


@pytest.mark.parametrize("dtype, step", [("float64", 2.0**-18), ("float32", 2.0**-8)])
def test_numeric_step(dtype, step):
    np.testing.assert_allclose(numeric_step(dtype), step, rtol=0.01)
