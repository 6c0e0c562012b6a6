"""Elementwise primitives of one operand, and `polynomial`. `dx` is the cotangent of `x`: same shape, same dtype.

Rules that can read the output `y` in place of `x` do so: the output is usually kept by the next equation anyway.
"""

import math

from jax import lax
from jax import numpy as jnp

from ...backprop.registry import vjp_rule
from ..expressions import scalar

# ---------------------------------------------------------------- powers and roots


@vjp_rule("neg")
def neg_vjp(dy):
    """dy/dx = -1."""
    return lax.neg(dy)


@vjp_rule("square")
def square_vjp(dy, x):
    """dy/dx = 2x."""
    return lax.mul(dy, lax.mul(scalar(2, x), x))


@vjp_rule("one_minus_square")
def one_minus_square_vjp(dy, x):
    """y = 1 - x², dy/dx = -2x."""
    return lax.mul(dy, lax.mul(scalar(-2, x), x))


@vjp_rule("integer_pow")
def integer_pow_vjp(dy, x, *, y):
    """z = xʸ for a static integer y: dz/dx = y·xʸ⁻¹, and zero for y = 0, at x = 0 too."""
    if y == 0:
        return None
    return lax.mul(dy, lax.mul(scalar(y, x), lax.integer_pow(x, y - 1)))


@vjp_rule("sqrt")
def sqrt_vjp(dy, y):
    """dy/dx = 1/(2y): infinite at 0."""
    return lax.div(lax.mul(dy, scalar(0.5, y)), y)


@vjp_rule("rsqrt")
def rsqrt_vjp(dy, y):
    """y = x^(-1/2), dy/dx = -y³/2, multiplied from the left so that a small dy meets a large y first."""
    return lax.mul(lax.mul(lax.mul(lax.mul(dy, scalar(-0.5, y)), y), y), y)


@vjp_rule("cbrt")
def cbrt_vjp(dy, y):
    """y³ = x, dy/dx = 1/(3y²): infinite at 0."""
    return lax.div(dy, lax.mul(scalar(3, y), lax.square(y)))


@vjp_rule("polynomial", "x, *coefficients -> y", wrt="x")
def polynomial_vjp_x(dy, x, coefficients, *, unroll=None):
    """y = Σ aₖ·xᵏ, ∂y/∂x = Σ k·aₖ·xᵏ⁻¹, a polynomial again."""
    slopes = [lax.mul(scalar(k, a), a) for k, a in enumerate(coefficients)]
    return lax.mul(dy, lax.polynomial(x, slopes[1:], unroll=unroll))


@vjp_rule("polynomial", "x, *coefficients -> y", wrt="coefficients")
def polynomial_vjp_coefficients(dy, x, coefficients_aval):
    """y = Σ aₖ·xᵏ, ∂y/∂aₖ = xᵏ."""
    found = [dy]
    for _ in coefficients_aval[1:]:
        found.append(lax.mul(found[-1], x))
    return found


# ---------------------------------------------------------------- exponentials and logarithms


@vjp_rule("exp")
def exp_vjp(dy, y):
    """dy/dx = y."""
    return lax.mul(dy, y)


@vjp_rule("exp2")
def exp2_vjp(dy, y):
    """y = 2ˣ, dy/dx = y·log 2."""
    return lax.mul(dy, lax.mul(y, scalar(math.log(2), y)))


@vjp_rule("expm1")
def expm1_vjp(dy, y):
    """y = eˣ - 1, dy/dx = y + 1."""
    return lax.mul(dy, lax.add(y, scalar(1, y)))


@vjp_rule("log")
def log_vjp(dy, x):
    """dy/dx = 1/x."""
    return lax.div(dy, x)


@vjp_rule("log2")
def log2_vjp(dy, x):
    """dy/dx = 1/(x·log 2)."""
    return lax.div(lax.mul(dy, scalar(1 / math.log(2), dy)), x)


@vjp_rule("log1p")
def log1p_vjp(dy, x):
    """y = log(1 + x), dy/dx = 1/(1 + x)."""
    return lax.div(dy, lax.add(x, scalar(1, x)))


@vjp_rule("logistic")
def logistic_vjp(dy, y):
    """y = 1/(1 + e⁻ˣ), dy/dx = y·(1 - y)."""
    return lax.mul(dy, lax.mul(y, lax.sub(scalar(1, y), y)))


# ---------------------------------------------------------------- circular and hyperbolic functions


def _one_minus_square(x):
    """1 - x² as (1 - x)(1 + x): exact to rounding also where x² is near 1."""
    one = scalar(1, x)
    return lax.mul(lax.sub(one, x), lax.add(one, x))


@vjp_rule("sin")
def sin_vjp(dy, x):
    """dy/dx = cos(x)."""
    return lax.mul(dy, lax.cos(x))


@vjp_rule("cos")
def cos_vjp(dy, x):
    """dy/dx = -sin(x)."""
    return lax.neg(lax.mul(dy, lax.sin(x)))


@vjp_rule("tan")
def tan_vjp(dy, y):
    """dy/dx = 1 + y²."""
    return lax.mul(dy, lax.add(scalar(1, y), lax.square(y)))


@vjp_rule("asin")
def asin_vjp(dy, x):
    """dy/dx = 1/√(1 - x²)."""
    return lax.mul(dy, lax.rsqrt(_one_minus_square(x)))


@vjp_rule("acos")
def acos_vjp(dy, x):
    """dy/dx = -1/√(1 - x²)."""
    return lax.neg(lax.mul(dy, lax.rsqrt(_one_minus_square(x))))


@vjp_rule("atan")
def atan_vjp(dy, x):
    """dy/dx = 1/(1 + x²)."""
    return lax.div(dy, lax.add(scalar(1, x), lax.square(x)))


@vjp_rule("sinh")
def sinh_vjp(dy, x):
    """dy/dx = cosh(x)."""
    return lax.mul(dy, lax.cosh(x))


@vjp_rule("cosh")
def cosh_vjp(dy, x):
    """dy/dx = sinh(x)."""
    return lax.mul(dy, lax.sinh(x))


@vjp_rule("tanh")
def tanh_vjp(dy, y):
    """dy/dx = 1 - y²: only the output is kept. Its own derivative, -2y, is exact for small y in this form."""
    return lax.mul(dy, lax.sub(scalar(1, y), lax.square(y)))


@vjp_rule("asinh")
def asinh_vjp(dy, x):
    """dy/dx = 1/√(1 + x²). Real: with s = min(|x|, 1) and t = 1/max(|x|, 1) it is t/√(s² + t²), which cannot overflow.
    Complex: 1/(√(1 + ix)·√(1 - ix)), the same branch, since the two arguments have opposite signs."""
    one = scalar(1, x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        ix = lax.mul(scalar(1j, x), x)
        return lax.mul(dy, lax.mul(lax.rsqrt(lax.add(one, ix)), lax.rsqrt(lax.sub(one, ix))))
    size = lax.abs(x)
    s, t = lax.min(size, one), lax.div(one, lax.max(size, one))
    return lax.mul(dy, lax.mul(t, lax.rsqrt(lax.add(lax.square(s), lax.square(t)))))


@vjp_rule("acosh")
def acosh_vjp(dy, x):
    """dy/dx = 1/(√(x - 1)·√(x + 1)): two roots, which is the right branch for complex x too."""
    one = scalar(1, x)
    return lax.mul(dy, lax.mul(lax.rsqrt(lax.sub(x, one)), lax.rsqrt(lax.add(x, one))))


@vjp_rule("atanh")
def atanh_vjp(dy, x):
    """dy/dx = 1/(1 - x²)."""
    return lax.div(dy, _one_minus_square(x))
