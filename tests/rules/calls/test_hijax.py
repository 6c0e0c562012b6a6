"""Primitives of `jax.experimental.hijax`: those that JAX 0.12 makes of `ldexp`, `frexp`, `custom_root`, and a user's.

JAX 0.10.2 writes the three in ordinary primitives; its second derivative of `ldexp` in a loop is wrong, ours is not.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import hijax

import fnbackprop as fb

from ..checking import assert_close, check_vjp, random_cotangent

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).uniform(0.5, 3, size=3)


def test_ldexp_and_frexp_vjp():
    def fun(x):
        mantissa, exponent = jnp.frexp(x)
        return jnp.ldexp(mantissa * x, exponent + 1)

    check_vjp(fun, X, dtypes=("float64", "float32"))


def test_ldexp_in_a_loop():
    """x⁴·2³, its second derivative 12·x²·2³."""

    def loop(x):
        return lax.scan(lambda c, _: (jnp.ldexp(c * x, 1), None), x, None, length=3)[0]

    assert_close(fb.grad(fb.grad(loop))(1.5), jnp.asarray(12 * 1.5**2 * 8), 1e-12)


def root(a):
    """y with (y·y) y = a, by Newton's method; the linear system by the Jacobian of the map that is handed over."""

    def newton(f, y):
        return lax.fori_loop(0, 40, lambda _, y: y - jnp.linalg.solve(jax.jacfwd(f)(y), f(y)), y)

    def tangent_solve(g, b):
        return jnp.linalg.solve(jax.jacfwd(g)(b), b)

    return lax.custom_root(lambda y: (y @ y) * y - a, jnp.ones(3), newton, tangent_solve)


def test_custom_root_vjp():
    """Against the closed form y = a / |a|^(2/3), to second order."""

    def both(fun, a):
        def first(a):
            value, pullback = fb.vjp(fun, a)
            return pullback(random_cotangent(value))[0], value

        (da, value), pullback = fb.vjp(first, a)
        return value, da, pullback(random_cotangent((da, value)))[0]

    got = jax.jit(partial(both, root))(X)
    assert_close(got, jax.jit(partial(both, lambda a: a / jnp.linalg.norm(a) ** (2 / 3)))(X), 1e-11)


Base = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive


class Scaled(Base):
    """x·y, with a backward that is on purpose another function's."""

    def __init__(self, x, y):
        self.in_avals, self.out_aval, self.params = (jax.typeof(x), jax.typeof(y)), jax.typeof(x), {}
        super().__init__()

    def expand(self, x, y):
        return x * y

    def vjp_fwd(self, active, x, y):
        return x * y, (x, y)

    def vjp_bwd_retval(self, residuals, ct):
        x, y = residuals
        return 3 * ct * y, 5 * ct * jnp.sin(x)


class Accumulating(Scaled):
    """The same, with the backward that adds to accumulators."""

    vjp_bwd_retval = Base.vjp_bwd_retval

    def vjp_bwd(self, residuals, ct, x_sum, y_sum):
        x, y = residuals
        x_sum.accum(2 * ct * y)
        x_sum.accum(ct * y)
        y_sum.accum(5 * ct * jnp.sin(x))


@pytest.mark.parametrize("kind", [Scaled, Accumulating])
def test_own_vjp(kind):
    def fun(x, y):
        x = jnp.sin(x)
        return kind(x, y)(x, y) * x

    y = X + 1
    dx, dy = jax.jit(lambda x, y: fb.vjp(fun, x, y)[1](jnp.ones(3)))(X, y)
    s = np.sin(X)
    assert_close(dx, jnp.asarray((3 * s * y + s * y) * np.cos(X)), 1e-12)
    assert_close(dy, jnp.asarray(5 * s * np.sin(s)), 1e-12)
    twice = fb.grad(lambda x: kind(x, x)(x, x).sum())(jnp.ones(1))
    assert_close(twice, jnp.asarray([3 + 5 * np.sin(1)]), 1e-12)
    only_x = fb.grad(lambda x: jax.jit(lambda x: kind(x, jnp.asarray(y))(x, jnp.asarray(y)).sum())(x))(jnp.asarray(X))
    assert_close(only_x, jnp.asarray(3 * y), 1e-12)


def test_no_derivative():
    class Bare(Scaled):
        vjp_fwd, vjp_bwd_retval = Base.vjp_fwd, Base.vjp_bwd_retval

    with pytest.raises(fb.MissingRule, match="call_hi_primitive"):
        fb.vjp(lambda x: Bare(x, x)(x, x), jnp.asarray(X))
