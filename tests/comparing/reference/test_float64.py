"""The float64 reference: the derivative of the traced program, with the decisions of its own precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.reference.float64 import NotInFloat64, float64_value, is_another_branch, reference_gradients

X = np.random.default_rng(0).normal(size=(8,))


def reference(fun, x):
    traced = trace_program(make_program(fun, (x,), 0, None))
    _, (found,) = reference_gradients(traced.closed, traced.operands, [0], traced.users_mode)
    return found


def looped(x):
    carry, ys = lax.scan(lambda c, t: (jnp.tanh(c * x + t), c * 2), x, jnp.ones((3, 8), x.dtype))
    return jnp.sum(carry) + jnp.sum(jnp.sin(ys))


@jax.custom_vjp
def squared(x):
    return x * x


squared.defvjp(lambda x: (x * x, x), lambda x, dy: (2 * x * dy,))

SMOOTH = {
    "elementwise": lambda x: jnp.sum(jnp.tanh(x) * jnp.exp(x)),
    "scan": looped,
    "cond": lambda x: lax.cond(x[0] > 0, lambda x: jnp.sum(x**3), lambda x: jnp.sum(jnp.sin(x)), x),
    "custom_vjp": lambda x: jnp.sum(squared(jnp.sin(x))),
    "custom_jvp": lambda x: jnp.sum(jax.nn.relu(x) ** 2) + jax.nn.logsumexp(x),
    "remat": jax.checkpoint(lambda x: jnp.sum(jnp.sin(jnp.sin(x)))),
    "gather and scatter": lambda x: jnp.sum(jnp.zeros_like(x).at[jnp.array([1, 1, 3])].add(x[2:5]) ** 2),
    "winners": lambda x: (
        jnp.max(x) + jnp.sum(jnp.sort(x) * jnp.arange(8.0, dtype=x.dtype)) + jnp.sum(lax.top_k(x, 3)[0])
    ),
    "bounds": lambda x: jnp.sum(jnp.clip(x, -0.5, 0.5) * x) + jnp.sum(jnp.abs(x)) + jnp.sum(jnp.minimum(x, 0.2)),
    "cast": lambda x: jnp.sum(jnp.square(x.astype(jnp.float32))),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_the_derivative_in_float64(name):
    fun = SMOOTH[name]
    found = reference(fun, jnp.asarray(X, jnp.float32))
    with jax.enable_x64(True):
        exact = np.asarray(jax.grad(lambda x: fun(x).astype(jnp.float64))(jnp.asarray(np.float32(X), jnp.float64)))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=1e-6 if name == "cast" else 1e-12, atol=1e-14)


def test_decisions_are_those_of_the_low_precision():
    """x + 1e-9 rounds to x in float32: there the comparison is a tie, and 1e-4 + 1 - 1 rounds to another bin."""

    def fun(x):
        tie = jnp.maximum(x + 1e-9, x)
        whole = jnp.floor(x + 1)
        return jnp.sum(jnp.where(x + 1e-9 > x, 100.0, 1.0) * x) + jnp.sum(tie) + jnp.sum(whole * x)

    np.testing.assert_allclose(reference(fun, jnp.float32([1.0, 2.0])), [4, 5], rtol=1e-7)


def test_random_numbers_are_the_same():
    def fun(x):
        key = jax.random.key(0)
        return jnp.sum(
            jax.random.normal(key, x.shape, x.dtype) * x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)
        )

    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(reference(fun, x), jax.grad(fun)(x), rtol=2e-6)


def test_a_stopped_gradient_is_stopped():
    np.testing.assert_allclose(reference(lambda x: jnp.sum(lax.stop_gradient(x) * x), jnp.float32([2, 3])), [2, 3])


def test_what_cannot_be_widened_says_where():
    def fun(x):
        return jnp.sum(jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x))

    traced = trace_program(make_program(fun, (jnp.float32(X),), 0, None))
    with pytest.raises(NotInFloat64, match="pure_callback at .*test_float64.py"), jax.enable_x64(True):
        float64_value(traced.closed, [0], False)(traced.operands, [X])


def test_the_function_itself_decides_anew():
    traced = trace_program(
        make_program(lambda x: jnp.sum(jnp.where(x > 1, x * x, 0.0)), (jnp.float32([1.0]),), 0, None)
    )
    with jax.enable_x64(True):
        value = float64_value(traced.closed, [0], False)
        assert [float(value(traced.operands, [np.array([at])])) for at in (0.5, 2.0)] == [0.0, 4.0]


def test_a_clamp_with_its_bounds_exchanged_is_the_upper_one():
    """Which z = min(max(x, low), high) is; the gradient of the held value is that of the function."""

    def fun(bounds):
        return jnp.sum(lax.clamp(bounds[0], jnp.float32([-2.0, 0.5, 3.0]), bounds[1]) * jnp.float32([1, 2, 4]))

    np.testing.assert_allclose(reference(fun, jnp.float32([[1, 1, 1], [-1, -1, -1]])), [[0, 0, 0], [1, 2, 4]])
    np.testing.assert_allclose(reference(fun, jnp.float32([[-1, -1, -1], [1, 1, 1]])), [[1, 0, 0], [0, 0, 4]])


@pytest.mark.parametrize("high, value, differs", [(1.0, 1 + 5e-4, False), (1.0, -1.0, True), (np.nan, 1.0, False)])
def test_another_branch_is_seen_from_its_value(high, value, differs):
    assert bool(is_another_branch(high, np.float32(value), 1e-6)) is differs
    assert not is_another_branch(high, np.float32(value), 1.0)


@pytest.mark.parametrize("fun", [
    lambda x: jnp.sum(jnp.linalg.inv(x * jnp.eye(2))),
    lambda x: jnp.sum(jax.vmap(jnp.linalg.inv)(x * jnp.ones((3, 1, 1)) * jnp.eye(2)[None])),
    lambda x: jax.random.gamma(jax.random.key(0), x),
    lambda x: jax.lax.scan(lambda c, _: (jax.random.gamma(jax.random.key(0), c), None), x, length=2)[0],
])  # fmt: skip
def test_what_a_librarys_function_holds_stands_where_it_is_called(fun):
    traced = trace_program(make_program(fun, (jnp.float32(2.0),), 0, None))
    with pytest.raises(NotInFloat64, match=r" at \S*test_float64.py:\d+.* cannot be run in float64"):
        reference_gradients(traced.closed, traced.operands, [0], False)
