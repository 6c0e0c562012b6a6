"""Primitives of `jax.experimental.hijax`: those that JAX 0.12 makes of `ldexp`, `frexp`, `custom_root`, and a user's.

JAX 0.10.2 writes the three in ordinary primitives; its second derivative of `ldexp` in a loop is wrong, ours is not.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import hijax
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop.jaxprs.avals import zeros_like_aval

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


# ---------------------------------------------------------------- types


@dataclass(frozen=True)
class Pair:
    """Two arrays, as one value of a type of its own."""

    a: Any
    b: Any


@dataclass(frozen=True)
class PairType(hijax.HiType):
    part: Any

    def lo_ty(self):
        return [self.part, self.part]

    def lower_val(self, pair):
        return [pair.a, pair.b]

    def raise_val(self, a, b):
        return Pair(a, b)

    def to_tangent_aval(self):
        return PairType(self.part.to_tangent_aval())

    def to_ct_aval(self):
        return PairType(self.part.to_ct_aval())

    def shard(self, mesh, manual_axes, check_vma, spec):
        return PairType(self.part.shard(mesh, manual_axes, check_vma, spec.part))

    def unshard(self, mesh, check_vma, spec):
        return PairType(self.part.unshard(mesh, check_vma, spec.part))

    def vspace_zero(self):
        zero = jnp.zeros(self.part.shape, self.part.dtype)
        return make(zero, zero)

    def vspace_add(self, x, y):
        return Sum(self)(x, y)

    def str_short(self, short_dtypes=False, **_):
        return f"Pair[{self.part.str_short(short_dtypes)}]"


hijax.register_hitype(Pair, lambda pair: PairType(jax.typeof(pair.a)))


@dataclass(frozen=True)
class PairSpec(hijax.HiPspec):
    part: Any

    def to_lo(self):
        return [self.part, self.part]

    def to_tangent_spec(self):
        return self

    def to_ct_spec(self):
        return self


class Make(Base):
    def __init__(self, part):
        self.in_avals, self.out_aval, self.params = (part, part), PairType(part), {}
        super().__init__()

    def expand(self, a, b):
        return Pair(a, b)

    def vjp_fwd(self, active, a, b):
        return self(a, b), ()

    def vjp_bwd_retval(self, residuals, ct):
        return part(ct, 0), part(ct, 1)


class Sum(Base):
    def __init__(self, pair):
        self.in_avals, self.out_aval, self.params = (pair, pair), pair, {}
        super().__init__()

    def expand(self, x, y):
        return Pair(x.a + y.a, x.b + y.b)

    def vjp_fwd(self, active, x, y):
        return self(x, y), ()

    def vjp_bwd_retval(self, residuals, ct):
        return ct, ct


class Part(Base):
    def __init__(self, pair, index):
        self.in_avals, self.out_aval, self.params = (pair,), pair.part, {"index": index}
        super().__init__()

    def expand(self, pair):
        return (pair.a, pair.b)[self.index]

    def vjp_fwd(self, active, pair):
        return self(pair), ()

    def vjp_bwd_retval(self, residuals, ct):
        zero = jnp.zeros_like(ct)
        return (make(ct, zero) if self.index == 0 else make(zero, ct),)


def make(a, b):
    return Make(jax.typeof(a))(a, b)


def part(pair, index):
    return Part(jax.typeof(pair), index)(pair)


def loss(pair):
    return 3 * part(pair, 0) ** 2 + part(pair, 1) * part(pair, 0)


@pytest.mark.parametrize(
    "gradient",
    [fb.grad(loss), jax.jit(fb.grad(loss)), fb.grad(jax.jit(loss)), fb.grad(jax.checkpoint(loss))],
    ids=["eager", "jit of grad", "grad of jit", "checkpoint"],
)
def test_a_differentiated_argument_of_a_type_of_its_own(gradient):
    assert gradient(Pair(jnp.float64(2), jnp.float64(5))) == Pair(17, 2)


def test_values_of_a_type_of_its_own_within_a_function():
    """3x² + x·sin(x): as an operand of a checkpoint, as a loop's constant, as output, as aux, and twice."""

    def fun(x):
        pair = make(x, jnp.sin(x))
        return loss(pair), pair

    def first(x):
        return 6 * x + np.sin(x) + x * np.cos(x)

    x = jnp.float64(1.5)
    gradient, aux = fb.grad(fun, has_aux=True)(x)
    assert aux == Pair(x, jnp.sin(x))
    assert_close(gradient, jnp.asarray(first(x)), 1e-14)
    assert_close(fb.grad(lambda x: jax.checkpoint(loss)(fun(x)[1]))(x), gradient, 1e-14)
    scanned = fb.grad(lambda x: lax.scan(lambda c, _: (c + loss(fun(x)[1]), None), 0.0, None, length=3)[0])
    assert_close(scanned(x), 3 * gradient, 1e-14)
    twice = fb.grad(lambda x: part(fb.grad(loss)(fun(x)[1]), 0))(x)
    assert_close(twice, jnp.asarray(6 + np.cos(x)), 1e-14)
    value, pullback = fb.vjp(lambda x: fun(x)[1], x)
    assert_close(pullback(value)[0], jnp.asarray(x + np.sin(x) * np.cos(x)), 1e-14)
    with pytest.raises(ValueError, match="expected PairType"):
        pullback(x)


def test_a_type_without_zeros_is_named():
    class Bare(PairType):
        vspace_zero = hijax.HiType.vspace_zero

    with pytest.raises(NotImplementedError, match="zeros of the hijax type .*define vspace_zero"):
        zeros_like_aval(Bare(jax.typeof(1.0)))


def test_a_type_of_its_own_through_shard_map():
    """Each device has a piece of both parts: 3a² + a·b, elementwise."""
    with jax.set_mesh(jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])):
        a, b, ones = (jax.device_put(jnp.asarray(x), P("x")) for x in (X[:2], X[1:], np.ones(2)))
        pieces = PairSpec(P("x"))
        _, pullback = fb.vjp(jax.jit(jax.shard_map(loss, in_specs=(pieces,), out_specs=P("x"))), Pair(a, b))
        (found,) = pullback(ones)
    assert_close((found.a, found.b), (6 * a + b, a), 1e-14)
