"""The user's own rules in a run on pairs: values and derivatives are in float64, and the rules are the user's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.reference.float64 import Float64Run

X, Y = (np.random.default_rng(0).normal(size=(2, 5))).astype(np.float32)


@jax.custom_jvp
def by_jvp(x, y, n):
    return jnp.sin(x) * y, n + 1


@by_jvp.defjvp
def _(primals, tangents):
    (x, y, n), (dx, dy, _) = primals, tangents
    zero = np.zeros((), jax.dtypes.float0)
    return by_jvp(x, y, n), (3 * jnp.cos(x) * y * dx + jnp.sin(x) * dy, zero)  # thrice in x: the rule is seen


@jax.custom_vjp
def by_vjp(x, y, n):
    return jnp.sin(x) * y, n + 1


by_vjp.defvjp(
    lambda x, y, n: (by_vjp(x, y, n), (x, y, n)),
    lambda residuals, cts: (3 * jnp.cos(residuals[0]) * residuals[1] * cts[0], jnp.sin(residuals[0]) * cts[0], None),
)


def on_pairs(function, high_x, high_y):
    """The function's outputs as pairs; the low halves of x and y are X and Y."""
    with jax.enable_x64(False):  # the program's own mode
        closed = jax.make_jaxpr(lambda x, y: function(x, y, 2))(X, Y)
    with jax.enable_x64(True):
        return Float64Run(users_mode=False).closed(closed, [(X, high_x), (Y, high_y)])


@pytest.mark.parametrize("function", [by_jvp, by_vjp])
def test_values_and_derivatives(function):
    with jax.enable_x64(True):
        high_x, high_y = X.astype(np.float64) + 1e-9, Y.astype(np.float64)
        (low, high), (count, none) = on_pairs(function, high_x, high_y)
        assert (int(count), none, low.dtype, high.dtype) == (3, None, np.float32, np.float64)
        np.testing.assert_allclose(high, np.sin(high_x) * high_y, rtol=1e-14)

        dx, dy = jax.grad(lambda *highs: jnp.sum(on_pairs(function, *highs)[0][1]), (0, 1))(high_x, high_y)
        np.testing.assert_allclose(dx, 3 * np.cos(high_x) * high_y, rtol=1e-14)
        np.testing.assert_allclose(dy, np.sin(high_x), rtol=1e-14)
