"""Special functions of one variable and a parameter. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are those of NIST's Digital Library of Mathematical Functions (DLMF), by equation number.
"""

from math import factorial, pi
from math import sqrt as root

import jax
from jax import lax
from jax import numpy as jnp

from ..expressions import (
    bessel_i0e,
    bessel_i1e,
    derivative,
    digamma,
    exp,
    full_like,
    lift,
    maximum,
    polygamma,
    rounded,
    rsqrt,
    sign,
    vjp_rule,
    where,
    wide,
)


def in_wide(function, *operands):
    """A function of arrays at expressions, in float32 at least, rounded to their dtype."""
    return lift(function)(*map(wide, operands)).astype(operands[0].dtype)


# ---------------------------------------------------------------- error function


def _gaussian(x):
    """The derivative of erf (DLMF 7.2.1)."""
    return 2 / root(pi) * exp(-(x**2))


@derivative("erf")
def erf_vjp(x):
    return _gaussian(x)


@vjp_rule("erfc")
def erfc_vjp(dy, x):
    return -(dy * _gaussian(x))


@derivative("erf_inv")
def erf_inv_vjp(y):
    """x = erf(y), dy/dx = 1/erf'(y)."""
    return root(pi) / 2 * exp(y**2)


# ---------------------------------------------------------------- gamma function


@derivative("lgamma")
def lgamma_vjp(x):
    """ψ(x), the digamma function (DLMF 5.2.2)."""
    return digamma(x)


@derivative("digamma")
def digamma_vjp(x):
    """ψ'(x), the trigamma function; for x < 0 by reflection, ψ'(x) + ψ'(1 - x) = π²/sin²πx (DLMF 5.15.6). Far out,
    where `polygamma` would square x, it is 1/x + 1/2x² to rounding (DLMF 5.15.8)."""
    left = x < 0
    at = where(left, 1 - x, x)
    far = at > 1e8
    distant = where(far, at, 1)
    slope = where(far, (1 + 0.5 / distant) / distant, polygamma(full_like(at, 1), where(far, 1, at)))
    turn = where(left, x - rounded(x), 0.5)  # the sine's period
    return where(left, (pi / _sine_of_pi_times(turn)) ** 2 - slope, slope)


def _sine_of_pi_times(t):
    """sin πt for |t| ≤ 1/2, by its series (DLMF 4.19.1): `sin` takes long because it serves large arguments too."""
    square, total = wide(t) ** 2, 0.0
    for k in reversed(range(12)):
        total = total * square + (-1) ** k * pi ** (2 * k + 1) / factorial(2 * k + 1)
    return (total * wide(t)).astype(t.dtype)


@derivative("polygamma", "m, x -> y", wrt="x")
def polygamma_vjp_x(m, x):
    """y = ψ⁽ᵐ⁾(x)."""
    return polygamma(m + 1, x)


@vjp_rule("polygamma", "m, x -> y", wrt="m")
def polygamma_vjp_m():
    """None exists: ψ⁽ᵐ⁾ is defined for integers m alone."""
    raise ValueError(
        "polygamma(m, x) has no derivative with respect to its order m, which is a whole number stored as a float. "
        "Differentiate with respect to x alone, or pass lax.stop_gradient(m)."
    )


# ---------------------------------------------------------------- modified Bessel functions


@derivative("bessel_i0e")
def bessel_i0e_vjp(x, y):
    """y = e^(-|x|)·I₀(x), where I₀' = I₁ (DLMF 10.29.3). At 0 the slope from the right, as of abs: so that
    I₀(x) = e^|x|·y has the derivative 0 there."""
    slope = bessel_i1e(x) - where(x >= 0, y, -y)
    return where(abs(x) > _far(x), _far_slope(x, 0), slope)


@derivative("bessel_i1e")
def bessel_i1e_vjp(x, y):
    """y = e^(-|x|)·I₁(x), where I₁' = I₀ - I₁/x (DLMF 10.29.2), which cancels near 0."""
    near = abs(x) < 1e-3
    slope = bessel_i0e(x) - y * (sign(x) + 1 / where(near, 1, x))
    return where(abs(x) > _far(x), sign(x) * _far_slope(x, 1), where(near, _near_slope(x), slope))


def _near_slope(x):
    """The derivative of e^-|x|·I₁(x) = Σ cₙ·x|x|ⁿ⁻¹, cₙ = (-1)ⁿ⁻¹·(2n)!/(2ⁿ·n!·(n-1)!·(n+1)!), for small x."""
    size, total = abs(x), full_like(x, 0)
    for n in range(7, 0, -1):
        c = (-1) ** (n - 1) * factorial(2 * n) / (2**n * factorial(n) * factorial(n - 1) * factorial(n + 1))
        total = total * size + n * c
    return total


def _far(x):
    """From here on the series below is exact to rounding."""
    return 30 if x.dtype == "float64" else 10


def _far_slope(x, order):
    """The derivative of e^-|x|·Iᵥ(|x|) = (2π|x|)^-½·Σ aₖ/|x|ᵏ, aₖ = -aₖ₋₁·(4v² - (2k-1)²)/8k (DLMF 10.40.1), for
    large x, where I₀ and I₁ differ by 1 part in 2|x|, lost in their difference. Term k's is -(k + ½)/|x| times it."""
    size = maximum(wide(abs(x)), _far(x))
    inverse = 1 / size
    coefficients = [1.0]
    for k in range(1, 20):
        coefficients.append(-coefficients[-1] * (4 * order**2 - (2 * k - 1) ** 2) / (8 * k))
    total = full_like(size, 0)
    for k in reversed(range(20)):
        total = total * inverse + (k + 0.5) * coefficients[k]
    return -sign(x) * (total * inverse * rsqrt(2 * pi * size)).astype(x.dtype)


# ---------------------------------------------------------------- Hurwitz zeta function


# B₂ₖ/(2k)! for k = 1 ... 10, the Bernoulli numbers of DLMF 24.2.
_EULER_MACLAURIN = (
    1 / 12,
    -1 / 720,
    1 / 30240,
    -1 / 1209600,
    1 / 47900160,
    -691 / 1307674368000,
    1 / 74724249600,
    -3617 / 10670622842880000,
    43867 / 5109094217170944000,
    -174611 / 802857662698291200000,
)


@vjp_rule("zeta", "x, q -> y", wrt="q")
def zeta_vjp_q(dy, x, q):
    """y = ζ(x, q) = Σ (q + n)⁻ˣ (DLMF 25.11.17)."""
    return -(dy * (x * lift(zeta_with_jvp)(x + 1, q)))


@jax.custom_jvp
def zeta_with_jvp(x, q):
    """ζ(x, q), which has no JVP in JAX."""
    return lax.zeta(x, q)


@zeta_with_jvp.defjvp
def _(primals, tangents):
    (x, q), (dx, dq) = primals, tangents
    return zeta_with_jvp(x, q), zeta_slope(x, q) * dx - x * zeta_with_jvp(x + 1, q) * dq


@derivative("zeta", "x, q -> y", wrt="x")
def zeta_vjp_x(x, q):
    """-Σ log(q + n)·(q + n)⁻ˣ, summed by `zeta_slope`."""
    return in_wide(zeta_slope, x, q)


@jax.jit
def zeta_slope(x, q):
    """∂ζ(x, q)/∂x for x > 1 and q > 0: the Euler-Maclaurin sum, differentiated term by term (DLMF 25.11.5).

    With w = q + N:  ζ(x, q) = Σ_{n<N} (q + n)⁻ˣ + w¹⁻ˣ/(x - 1) + w⁻ˣ/2 + Σ_k B₂ₖ/(2k)!·x(x+1)...(x+2k-2)·w¹⁻ˣ⁻²ᵏ.
    """
    terms = 12
    w = q + terms
    log_w, power = jnp.log(w), w**-x
    slope = -power * w / (x - 1) * (log_w + 1 / (x - 1)) - power * log_w / 2
    for n in range(terms):
        slope -= jnp.log(q + n) * (q + n) ** -x
    rising, harmonic = x / w, 1 / x  # x(x+1)...(x+2k-2)/w²ᵏ⁻¹ and Σ 1/(x+j), the derivative of its logarithm
    for k, coefficient in enumerate(_EULER_MACLAURIN, start=1):
        slope += coefficient * power * rising * (harmonic - log_w)
        a, b = x + (2 * k - 1), x + 2 * k
        rising, harmonic = rising * (a / w) * (b / w), harmonic + 1 / a + 1 / b
    return slope


# ---------------------------------------------------------------- random numbers


@vjp_rule("rng_uniform", "a, b -> y")
def rng_uniform_vjp(dy, a, b, y):
    """y = a + (b - a)·u with u drawn from [0, 1): ∂y/∂a = 1 - u, ∂y/∂b = u = (y - a)/(b - a)."""
    width = b - a
    return dy * ((b - y) / width), dy * ((y - a) / width)
