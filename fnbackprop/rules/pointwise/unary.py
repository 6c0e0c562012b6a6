"""Elementwise primitives of one operand, and `polynomial`. `dx` is the cotangent of `x`: same shape, same dtype.

A `derivative` is dy/dx, which the engine multiplies by dy; a `vjp_rule` is the whole product, where the order of its
factors matters. Rules that can read the output `y` in place of `x` do so: the next equation usually keeps it anyway.
"""

from math import log as ln

import numpy as np
from jax import lax

from ..expressions import (
    cos,
    cosh,
    derivative,
    exp,
    integer_pow,
    is_complex,
    logistic,
    maximum,
    rsqrt,
    sin,
    sinh,
    tanh,
    unwrap,
    vjp_rule,
    where,
)

# ---------------------------------------------------------------- powers and roots


@vjp_rule("neg")
def neg_vjp(dy):
    return -dy


@derivative("square")
def square_vjp(x):
    return 2 * x


@derivative("one_minus_square")
def one_minus_square_vjp(x):
    return -2 * x


@derivative("integer_pow")
def integer_pow_vjp(x, *, y):
    """xʸ for a static integer y; zero for y = 0, at x = 0 too."""
    return y * integer_pow(x, y - 1) if y != 0 else None


@vjp_rule("sqrt")
def sqrt_vjp(dy, y):
    """dy/dx = 1/(2y): infinite at 0."""
    return dy * 0.5 / y


@vjp_rule("rsqrt")
def rsqrt_vjp(dy, y):
    """dy/dx = -y³/2, multiplied from the left so that a small dy meets a large y first."""
    return dy * -0.5 * y * y * y


@vjp_rule("cbrt")
def cbrt_vjp(dy, y):
    """y³ = x: infinite at 0."""
    return dy / (3 * y**2)


@derivative("polynomial", "x, *coefficients -> y", wrt="x")
def polynomial_vjp_x(x, coefficients, *, unroll=None):
    """y = Σ aₖ·xᵏ, ∂y/∂x = Σ k·aₖ·xᵏ⁻¹, a polynomial again."""
    slopes = [k * a for k, a in enumerate(coefficients)]
    return lax.polynomial(x.array, unwrap(slopes[1:]), unroll=unroll)


@vjp_rule("polynomial", "x, *coefficients -> y", wrt="coefficients")
def polynomial_vjp_coefficients(dy, x, coefficients_aval):
    """y = Σ aₖ·xᵏ, ∂y/∂aₖ = xᵏ."""
    found = [dy]
    for _ in coefficients_aval[1:]:
        found.append(found[-1] * x)
    return found


# ---------------------------------------------------------------- exponentials and logarithms


@derivative("exp")
def exp_vjp(y):
    return y


@derivative("exp2")
def exp2_vjp(y):
    return y * ln(2)


@derivative("expm1")
def expm1_vjp(y):
    return y + 1


@derivative("expm1", given="accuracy")
def expm1_vjp_accurate(x, *, accuracy):
    """eˣ itself: y + 1 has lost its digits where y is near -1."""
    return exp(x, accuracy=accuracy)


@vjp_rule("log")
def log_vjp(dy, x):
    return dy / x


@vjp_rule("log2")
def log2_vjp(dy, x):
    return dy * (1 / ln(2)) / x


@vjp_rule("log1p")
def log1p_vjp(dy, x):
    return dy / (x + 1)


@derivative("logistic")
def logistic_vjp(y):
    return y * (1 - y)


@derivative("logistic", given="accuracy")
def logistic_vjp_accurate(x, *, accuracy):
    """y = (1 + tanh(x/2))/2, dy/dx = sech²(x/2)/4."""
    return 0.25 * _sech_squared(0.5 * x, accuracy)


# ---------------------------------------------------------------- circular functions


@derivative("sin")
def sin_vjp(x, *, accuracy=None):
    return cos(x, accuracy=accuracy)


@vjp_rule("cos")
def cos_vjp(dy, x, *, accuracy=None):
    return -(dy * sin(x, accuracy=accuracy))


@derivative("tan")
def tan_vjp(y):
    return 1 + y**2


@derivative("asin")
def asin_vjp(x):
    return rsqrt(_one_minus_square(x))


@vjp_rule("acos")
def acos_vjp(dy, x):
    return -(dy * rsqrt(_one_minus_square(x)))


@vjp_rule("atan")
def atan_vjp(dy, x):
    """1/(1 + x²); complex 1/((1 + ix)(1 - ix)), which is exact near the poles ±i."""
    if is_complex(x):
        ix = 1j * x
        return dy / ((1 + ix) * (1 - ix))
    return dy / (1 + x**2)


def _one_minus_square(x):
    """1 - x², exact to rounding also where x² is near 1."""
    return (1 - x) * (1 + x)


# ---------------------------------------------------------------- hyperbolic functions


@derivative("sinh")
def sinh_vjp(x):
    """cosh x; complex cos ix, which XLA computes with fewer roundings."""
    return cos(1j * x) if is_complex(x) else cosh(x)


@derivative("cosh")
def cosh_vjp(x):
    """sinh x; complex -i·sin ix, which XLA computes without cancellation near 0."""
    return -1j * sin(1j * x) if is_complex(x) else sinh(x)


@derivative("tanh")
def tanh_vjp(y):
    """In this form the derivative's own derivative, -2y, is exact for small y."""
    return 1 - y**2


@derivative("tanh", given="accuracy")
def tanh_vjp_accurate(x, *, accuracy):
    return _sech_squared(x, accuracy)


def _sech_squared(x, accuracy):
    """1/cosh²x. With t = tanh x: 1 - t², whose derivative -2t(1 - t²) is exact for small x; and 4σ(2x)σ(-2x), since
    1 ± t = 2σ(±2x), which is exact in the tails too. To every order each has the accuracy that is asked for."""
    near = abs(x) < 0.5
    tail = 4 * logistic(2 * x, accuracy=accuracy) * logistic(-2 * x, accuracy=accuracy)
    return where(near, 1 - tanh(x, accuracy=accuracy) ** 2, tail)


@derivative("asinh")
def asinh_vjp(x):
    """1/√(1 + x²), and 1/|x| where x² overflows. Complex: 1/(√(1 + ix)·√(1 - ix)), the same branch, since the two
    arguments have opposite signs."""
    if is_complex(x):
        ix = 1j * x
        return rsqrt(1 + ix) * rsqrt(1 - ix)
    square = x**2
    return where(square == np.inf, 1 / maximum(abs(x), 1), rsqrt(1 + square))


@derivative("acosh")
def acosh_vjp(x):
    """1/√(x² - 1) as two roots, which is the right branch for complex x too."""
    return rsqrt(x - 1) * rsqrt(x + 1)


@vjp_rule("atanh")
def atanh_vjp(dy, x):
    return dy / _one_minus_square(x)
