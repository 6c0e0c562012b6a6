"""Special functions of one variable and a parameter. `dx` is the cotangent of `x`: same shape, same dtype.

The formulas are those of NIST's Digital Library of Mathematical Functions (DLMF), by equation number.
"""

import math

import jax
from jax import lax
from jax import numpy as jnp

from ...backprop.precision import wide
from ...backprop.registry import vjp_rule
from ..expressions import scalar

# ---------------------------------------------------------------- error function


def _gaussian(x):
    """(2/√π)·exp(-x²), the derivative of erf (DLMF 7.2.1)."""
    return lax.mul(scalar(2 / math.sqrt(math.pi), x), lax.exp(lax.neg(lax.square(x))))


@vjp_rule("erf")
def erf_vjp(dy, x):
    """dy/dx = (2/√π)·exp(-x²)."""
    return lax.mul(dy, _gaussian(x))


@vjp_rule("erfc")
def erfc_vjp(dy, x):
    """y = 1 - erf(x), dy/dx = -(2/√π)·exp(-x²)."""
    return lax.neg(lax.mul(dy, _gaussian(x)))


@vjp_rule("erf_inv")
def erf_inv_vjp(dy, y):
    """x = erf(y), dy/dx = 1/erf'(y) = (√π/2)·exp(y²)."""
    return lax.mul(dy, lax.mul(scalar(math.sqrt(math.pi) / 2, y), lax.exp(lax.square(y))))


# ---------------------------------------------------------------- gamma function


@vjp_rule("lgamma")
def lgamma_vjp(dy, x):
    """dy/dx = ψ(x), the digamma function (DLMF 5.2.2)."""
    return lax.mul(dy, lax.digamma(x))


@vjp_rule("digamma")
def digamma_vjp(dy, x):
    """dy/dx = ψ'(x), the trigamma function."""
    return lax.mul(dy, lax.polygamma(lax.full_like(x, 1), x))


@vjp_rule("polygamma", "m, x -> y", wrt="x")
def polygamma_vjp_x(dy, m, x):
    """y = ψ⁽ᵐ⁾(x), ∂y/∂x = ψ⁽ᵐ⁺¹⁾(x)."""
    return lax.mul(dy, lax.polygamma(lax.add(m, scalar(1, m)), x))


@vjp_rule("polygamma", "m, x -> y", wrt="m")
def polygamma_vjp_m():
    """None exists: ψ⁽ᵐ⁾ is defined for integers m alone."""
    raise ValueError(
        "polygamma(m, x) has no derivative with respect to its order m, which is a whole number stored as a float. "
        "Differentiate with respect to x alone, or pass lax.stop_gradient(m)."
    )


# ---------------------------------------------------------------- modified Bessel functions


@vjp_rule("bessel_i0e")
def bessel_i0e_vjp(dy, x, y):
    """y = e^(-|x|)·I₀(x), dy/dx = e^(-|x|)·I₁(x) - sign(x)·y, since I₀' = I₁ (DLMF 10.29.3)."""
    return lax.mul(dy, lax.sub(lax.bessel_i1e(x), lax.mul(lax.sign(x), y)))


@vjp_rule("bessel_i1e")
def bessel_i1e_vjp(dy, x, y):
    """y = e^(-|x|)·I₁(x), dy/dx = e^(-|x|)·I₀(x) - y·(sign(x) + 1/x), and ½ at 0 (DLMF 10.29.2)."""
    at_zero = lax.eq(x, scalar(0, x))
    safe = lax.select_n(at_zero, x, lax.full_like(x, 1))
    slope = lax.sub(lax.bessel_i0e(x), lax.mul(y, lax.add(lax.sign(x), lax.div(scalar(1, x), safe))))
    return lax.mul(dy, lax.select_n(at_zero, slope, lax.full_like(x, 0.5)))


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
    """y = ζ(x, q) = Σ (q + n)⁻ˣ, ∂y/∂q = -x·ζ(x + 1, q) (DLMF 25.11.17)."""
    return lax.neg(lax.mul(dy, lax.mul(x, lax.zeta(lax.add(x, scalar(1, x)), q))))


@vjp_rule("zeta", "x, q -> y", wrt="x")
def zeta_vjp_x(dy, x, q):
    """∂y/∂x = -Σ log(q + n)·(q + n)⁻ˣ, summed by `zeta_slope`."""
    return lax.mul(dy, lax.convert_element_type(zeta_slope(wide(x), wide(q)), dy.dtype))


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
    width = lax.sub(b, a)
    return lax.mul(dy, lax.div(lax.sub(b, y), width)), lax.mul(dy, lax.div(lax.sub(y, a), width))
