"""Elementwise primitives, special functions, conversions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata

from .operands import away, complex_normal, distinct, inside, normal, positive
from .table import add, bind, of

# fmt: off
# ---------------------------------------------------------------- elementwise

for _name in "neg square sin cos tanh exp exp2 expm1 atan asinh sinh cosh logistic erf erfc".split():
    add(_name, of(_name), normal(5))
add("one_minus_square", bind("one_minus_square"), normal(4))
for _name in "bessel_i0e bessel_i1e lgamma digamma log2".split():
    if hasattr(lax, _name):
        add(_name, of(_name), positive(5, high=2.6))
for _name in "sqrt rsqrt cbrt log log1p".split():
    add(_name, of(_name), positive(5))
for _name in "asin acos atanh erf_inv tan".split():
    add(_name, of(_name), inside(5))
add("digamma", lax.digamma, np.float32([-0.3, -1.6, -2.45, -3.8, 0.7]))  # by reflection
add("asinh", lax.asinh, 3 * away(5))
add("asinh", lax.asinh, np.float32([1e30, -3e37]))  # whose squares overflow
add("asinh", lax.asinh, complex_normal(4))
add("asin acos atanh", lambda x: (lax.asin(x), lax.acos(x), lax.atanh(x)), 0.5 * complex_normal(3))
add("cosh", lax.cosh, complex_normal(3))
add("atan sinh", lambda x: (lax.atan(x), lax.sinh(x)), 0.5 * complex_normal(3))
add("acosh", lax.acosh, positive(5, low=1.4, high=3.0))
add("bessel_i0e", lambda x: jnp.exp(abs(x)) * lax.bessel_i0e(x), np.float32([0.0, 0.5]))  # I₀, smooth at 0
add("bessel_i0e bessel_i1e", lambda x: (lax.bessel_i0e(x), lax.bessel_i1e(x)), away(5))
add("bessel_i1e", lax.bessel_i1e, np.float32([0.0, 0.5]))
add("bessel_i1e", lax.bessel_i1e, np.float32([-9e-4, 9e-4]))  # by the series at 0
add("bessel_i0e bessel_i1e", lambda x: (lax.bessel_i0e(x), lax.bessel_i1e(x)), np.float32([12, -20, 45]))  # the series
for _name in "tanh logistic expm1 exp sin cos tan log log1p sqrt rsqrt cbrt exp2".split():
    add(_name, partial(of(_name), accuracy=lax.AccuracyMode.HIGHEST), positive(5))
for _power in (3, -2, 0, 1):
    add("integer_pow", partial(lax.integer_pow, y=_power), away(5))
if hasattr(lax, "polynomial"):
    add("polynomial", lambda x, a, b, c: lax.polynomial(x, [a, b, c]), normal(4),
        *(normal(4, seed=s) for s in (1, 2, 3)))
add("add sub mul", lambda x, y: (lax.add(x, y), lax.sub(x, y), lax.mul(x, y)), normal(4), normal(4, seed=1))
add("add_any", bind("add_any"), normal(4), normal(4, seed=1))
add("div", lax.div, normal(4), away(4, seed=1))
add("div", lambda x, y: x / y, normal(4), np.float32(1.7))
add("rem", lax.rem, 5 * away(6), away(6, seed=1))
add("pow", lax.pow, positive(5), normal(5, seed=1))
add("pow", lax.pow, np.float32([0.0, 0.0, 2.0]), np.float32([0.0, 2.0, 1.5]))
add("pow", lambda x: lax.pow(x, 2), away(4))
add("atan2", lax.atan2, normal(5), away(5, seed=1))
add("atan2", lax.atan2, np.float32([1e30, 3e38]), np.float32([2e30, -1e38]))
add("atan2", lax.atan2, np.float32([2e-30, 1e-36]), np.float32([1e-30, 2e-36]))
add("nextafter", lax.nextafter, normal(4), normal(4, seed=1))
add("max min", lambda x, y: (lax.max(x, y), lax.min(x, y)), distinct(6), distinct(6, seed=1) + np.float32(0.2))
add("max min", lambda x, y: (lax.max(x, y), lax.min(x, y)), np.float32([1.0, 2.0, 3.0]), np.float32([1.0, 5.0, 1.0]))
add("max min", lambda x, y: (lax.max(x, y), lax.min(x, y)),
    np.complex64([1 + 2j, 1 + 2j, 3 - 1j, 2 + 1j, 2 + 5j]), np.complex64([1 + 2j, 1 - 1j, 2 + 5j, 2 + 4j, 2 + 4j]))
add("max min", lambda x, y: (jnp.sqrt(lax.max(x, y)), jnp.sqrt(-lax.min(-x, -y))),
    np.float32([0, 2]), np.float32([-1, 1]))  # whose cotangent is infinite
add("clamp", lax.clamp, np.full(6, -1, "float32"), np.float32([-2, -1.5, -0.5, 0.5, 1.5, 2]), np.full(6, 1, "float32"))
add("clamp", lax.clamp, np.float32([1, 1, -3, 1]), np.float32([0, 3, 0.5, -2]), np.float32([-1, -1, -2, -1]))
add("max min", lambda x, y: (lax.max(x, y), lax.min(x, y)), np.complex64([3 - 1j, 1 + 1j, 1 + 5j, 1 + 2j]),
    np.complex64([2 + 5j, 2, 2 + 1j, 2]))
add("max min", lambda x, y: (lambda x, y: (lax.max(x, y), lax.min(x, y)))(1 + 1j * x, 1 + 1j * y),
    distinct(6), distinct(6, seed=1) + np.float32(0.2))  # whose real parts stay equal
add("clamp", lax.clamp, np.float32(-1), np.float32([-1.0, 0.0, 1.0]), np.float32(1))
add("select_n", lambda x, y: lax.select_n(np.array([True, False, True, False]), x, y), normal(4), normal(4, seed=1))
add("select_n", lambda *xs: lax.select_n(np.int32([0, 2, 1, 2]), *xs), *(normal(4, seed=s) for s in range(3)))
add("select_n", lambda x: lax.select_n(np.array([True, False, True]), x, jnp.ones(3, x.dtype)), normal(3))

# ---------------------------------------------------------------- special functions

add("polygamma", lambda x: lax.polygamma(np.full(4, 2, x.dtype), x), positive(4))
add("zeta", lambda x, q: lax.zeta(x, q), positive(5, low=1.5, high=4.0), positive(5, seed=1, low=0.6, high=3.0))
for _name in ("igamma", "igammac"):
    add(_name, of(_name), positive(6), positive(6, seed=1, low=0.2, high=3.0))
add("igamma_grad_a", lax.igamma_grad_a, positive(6), positive(6, seed=1, low=0.2, high=3.0))
add("igamma_grad_a", lax.igamma_grad_a, positive(4, low=12, high=30), positive(4, seed=1, low=3, high=60))
add("regularized_incomplete_beta", lax.betainc, positive(6),
    positive(6, seed=1), positive(6, seed=2, low=0.1, high=0.9))
add("random_gamma", lambda a: jax.random.gamma(jax.random.key(1), a), positive(5))
add("random_gamma", lambda a: jax.random.loggamma(jax.random.key(1), a), positive(5, low=0.05, high=3.0))
add("random_gamma", lambda a: jax.random.loggamma(jax.random.key(1), a), np.float32([0.03, 0.02, 0.1]))
add("random_gamma", lambda a: jax.random.loggamma(jax.random.key(2), a), positive(20, low=0.2, high=1.0))

# ---------------------------------------------------------------- conversions and identities

add("copy", lambda x: lax.optimization_barrier(jnp.copy(x)) * x, normal(3))
add("convert_element_type", lambda x: lax.convert_element_type(x, "float16"), normal(3))
add("convert_element_type", lambda x: lax.convert_element_type(x, "complex64"), normal(3))
add("reduce_precision", lambda x: lax.reduce_precision(x, 8, 10), normal(3))
add("real imag conj", lambda x: (lax.real(x), lax.imag(x), lax.conj(x)), complex_normal(3))
add("complex", lax.complex, normal(3), normal(3, seed=1))
add("abs", lax.abs, away(4))
add("abs", lax.abs, np.float32([0.0, -0.5]))
add("abs sign", lambda x: (lax.abs(x), lax.sign(x)), complex_normal(4))
add("sign", lax.sign, np.complex64([0, 1 + 2j]))
add("name", lambda x: checkpoint_name(x, "here"), normal(3))
add("xla_metadata_value", lambda x: set_xla_metadata(x * x, tag="a"), normal(3))
add("tie", bind("tie"), normal(3), normal(3, seed=1))
add("broadcast_to", bind("broadcast_to", shape=(2, 3)), normal(3))
add("optimization_barrier", lambda x, y: lax.optimization_barrier((x, y)), normal(3), normal(3, seed=1))
