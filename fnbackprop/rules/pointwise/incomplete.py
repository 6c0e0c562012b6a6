"""Incomplete gamma and beta functions, in all arguments. `dx` is the cotangent of `x`: same shape, same dtype.

Their derivatives with respect to the parameters are not elementary. They are integrals over a tail of the
distribution, of its density times a logarithm, and are computed as such, by `tail_integral`. Its nodes are constants
to the chain rule and all else is ordinary JAX, so derivatives of every order follow from it.

DLMF: NIST's Digital Library of Mathematical Functions, by equation number.
"""

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ..expressions import derivative, digamma, lift, log, scalar, unwrap, vjp_rule, where, wrap
from .special import in_wide

# ---------------------------------------------------------------- quadrature


def _tanh_sinh(count: int = 121, reach: float = 3.4) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1], dense at both ends (Takahasi & Mori, Publ. RIMS 9, 1974)."""
    t = np.linspace(-reach, reach, count)
    nodes = 1 / (1 + np.exp(-np.pi * np.sinh(t)))
    weights = (t[1] - t[0]) * np.pi * np.cosh(t) * nodes * (1 / (1 + np.exp(np.pi * np.sinh(t))))
    return nodes, weights


NODES, WEIGHTS = _tanh_sinh()
DROP = 44.0  # the tail ends where the integrand has fallen by e^-44, below the rounding of float64


def tail_integral(fall, weight, like):
    """∫₀^∞ exp(-fall(s))·weight(s) ds for a convex increasing `fall` with fall(0) = 0; one integral per element.

    `like` has the shape (1, ...) of the result; `fall` and `weight` take an array with the nodes along that first axis.
    The range is [0, S] with fall(S) = DROP, found by bisection on log S; S is a constant to the chain rule.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        beyond = fall(jnp.exp(middle)) > DROP
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    start = jnp.full_like(like, -60.0), jnp.full_like(like, 60.0)
    end = jnp.exp(lax.stop_gradient(lax.fori_loop(0, 14, halve, start)[1]))
    nodes, weights = (jnp.asarray(v, like.dtype).reshape(-1, *(1,) * (like.ndim - 1)) for v in (NODES, WEIGHTS))
    s = nodes * end  # (node, ...)
    return jnp.sum(jnp.exp(-fall(s)) * weight(s) * weights, axis=0, keepdims=True) * end


def _with_node_axis(*operands):
    """The operands in their common shape, with an axis in front for the nodes."""
    shape = jnp.broadcast_shapes(*(x.shape for x in operands))
    return [jnp.broadcast_to(x, (1, *shape)) for x in operands]


# ---------------------------------------------------------------- incomplete gamma function


@derivative("igamma", "a, x -> y", wrt="x")
def igamma_vjp_x(a, x):
    """y = P(a, x); its derivative is the gamma density (DLMF 8.8.13)."""
    return lift(gamma_density)(a, x)


@derivative("igamma", "a, x -> y", wrt="a")
def igamma_vjp_a(a, x):
    """∂P/∂a is a primitive of JAX."""
    return lift(igamma_grad_a)(a, x)


@vjp_rule("igammac", "a, x -> y", wrt="x")
def igammac_vjp_x(dy, a, x):
    """y = Q(a, x) = 1 - P(a, x)."""
    return -(dy * lift(gamma_density)(a, x))


@vjp_rule("igammac", "a, x -> y", wrt="a")
def igammac_vjp_a(dy, a, x):
    return -(dy * lift(igamma_grad_a)(a, x))


@derivative("igamma_grad_a", "a, x -> y", wrt="x")
def igamma_grad_a_vjp_x(a, x):
    """y = ∂P/∂a, ∂y/∂x = ∂/∂a of the density p = p·(log x - ψ(a)), and 0 at x = 0 for a > 1."""
    density = lift(gamma_density)(a, x)
    slope = density * (log(x) - digamma(a))
    return where(density == 0, 0, slope)


@derivative("igamma_grad_a", "a, x -> y", wrt="a")
def igamma_grad_a_vjp_a(a, x):
    """y = ∂P/∂a, ∂y/∂a = ∂²P/∂a²."""
    return in_wide(gamma_second_slope, a, x)


@jax.custom_jvp
def igamma_grad_a(a, x):
    """∂P/∂a, of which JAX knows no derivative; 0 at x = ∞."""
    beyond = x == np.inf
    return jnp.where(beyond, 0, lax.igamma_grad_a(a, jnp.where(beyond, 1, x)))


@igamma_grad_a.defjvp
def igamma_grad_a_jvp(primals, tangents):
    a, x = wrap(primals)
    slopes = unwrap((igamma_grad_a_vjp_a(a, x), igamma_grad_a_vjp_x(a, x)))
    return igamma_grad_a(*primals), sum(slope * t for slope, t in zip(slopes, tangents, strict=True))


@jax.jit
def gamma_second_slope(a, x):
    """∂²P(a, x)/∂a²: 0 at x = 0 and ∞, NaN below."""
    safe = jnp.where(x > 0, jnp.where(x == jnp.inf, 1, x), 1)
    slope = safe * gamma_density(a, safe) * gamma_curvature(a, safe)
    return jnp.where(x > 0, jnp.where(x == jnp.inf, 0, slope), jnp.where(x == 0, 0, jnp.nan))


# B₂ₖ/(2k(2k - 1)) for k = 1 ... 8, of Stirling's series (DLMF 5.11.1), which is exact to rounding from a = 10 on.
_STIRLING = 1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400


@jax.jit
def gamma_density(a, x):
    """p(x; a) = x^(a-1)·e^(-x)/Γ(a); at x = 0 infinite, 1 or 0 for a below, at or above 1; 0 at x = ∞.

    For large a, where the logarithms of xᵃ, eˣ and Γ(a) cancel, it is √(a/2π)/x·exp(-a·(m - log(1 + m)) - s), with
    m = (x - a)/a and s = Σ cₖ·a¹⁻²ᵏ of Stirling's series (Loader, "Fast and accurate computation of binomial
    probabilities", 2000)."""
    beyond = x == jnp.inf
    x = jnp.where(beyond, 1, x)
    power = jnp.where((x == 0) & (a == 1), 0, (a - 1) * jnp.log(x))
    large = (a >= 10) & (x > 0)
    exponent = jnp.where(large, _large_exponent(jnp.where(large, a, 10), jnp.where(large, x, 10)), power - x)
    scale = jnp.where(large, jnp.sqrt(a / (2 * jnp.pi)) / jnp.where(large, x, 1), 1)
    return jnp.where(beyond, 0, scale * jnp.exp(jnp.where(large, exponent, exponent - lax.lgamma(a))))


def _large_exponent(a, x):
    """-a·(m - log(1 + m)) - s. Near m = 0, with v = m/(2 + m), m - log(1 + m) = m·v - 2v³·Σ v²ᵏ/(2k + 3)."""
    m = (x - a) / a
    v = m / (2 + m)
    near = m * v - 2 * v**3 * sum(v ** (2 * k) / (2 * k + 3) for k in range(9))
    series = sum(c * a ** (1 - 2 * k) for k, c in enumerate(_STIRLING, start=1))
    far = m - jnp.where(m > -0.5, jnp.log1p(jnp.where(m > -0.5, m, 0)), jnp.log(x / a))
    return -a * jnp.where(jnp.abs(m) < 0.2, near, far) - series


@jax.jit
def gamma_curvature(a, x):
    """∂²P(a, x)/∂a² divided by x·p(x; a), for x > 0.

    p depends on a as ∂²p/∂a² = p·h with h(t) = (log t - ψ(a))² - ψ'(a). The integral of p·h over (0, ∞) is that of
    ∂²p/∂a², zero, so ∫₀ˣ = -∫ₓ^∞ and the tail that does not hold the mode of log t, log a, is taken. With
    t = x·e^(±s):  dt·p(t)/(x·p(x)) = exp(-fall(s)) ds, where fall(s) = x·expm1(±s) ∓ a·s.
    """
    a, x = _with_node_axis(a, x)
    sign = jnp.where(x < a, -1, 1).astype(x.dtype)
    offset, variance = jnp.log(x) - lax.digamma(a), lax.polygamma(jnp.ones_like(a), a)

    def fall(s):
        return x * jnp.expm1(sign * s) - sign * a * s

    def weight(s):
        return (offset + sign * s) ** 2 - variance

    return (-sign * tail_integral(fall, weight, x))[0]


# ---------------------------------------------------------------- samples of the gamma distribution


@derivative("random_gamma", "key, a -> y", wrt="a")
def random_gamma_vjp(a, y, *, log_space):
    """A sample y keeps its quantile P(a, y) as a moves: dy/da = -(∂P/∂a)/(∂P/∂y), by the implicit function theorem
    (Figurnov, Mohamed & Mnih, "Implicit reparameterization gradients", NeurIPS 2018)."""
    return in_wide(log_sample_slope, a, y) if log_space else lift(sample_slope)(a, y)


@jax.custom_jvp
def sample_slope(a, y):
    """g(a, y) = -(∂P/∂a)/p, a function of JAX; its derivatives are given below."""
    return jax.jit(lax.random_gamma_grad)(a, y)  # the branches that it does not take may be NaN


@sample_slope.defjvp
def sample_slope_jvp(primals, tangents):
    """With q = log y - ψ(a) = (∂p/∂a)/p and r = (a - 1)/y - 1 = (∂p/∂y)/p:
    ∂g/∂y = -q - g·r and ∂g/∂a = -(∂²P/∂a²)/p - g·q."""
    (a, y), (da, dy) = primals, tangents
    g = sample_slope(a, y)
    q = jnp.log(y) - lax.digamma(a)
    slope_y = -q - g * ((a - 1) / y - 1)
    slope_a = -y * gamma_curvature(a, y) - g * q
    return g, slope_y * dy + slope_a * da


@jax.jit
def log_sample_slope(a, z):
    """dz/da of a log-sample z = log y: g(a, y)/y. Where y is below rounding, P(a, y) = yᵃ/Γ(a + 1), and so
    dz/da = (ψ(a + 1) - z)/a, which needs no y and cannot underflow."""
    tiny = z < np.log(jnp.finfo(z.dtype).eps) - 1
    y = jnp.exp(jnp.where(tiny, 0, z))
    return jnp.where(tiny, (lax.digamma(a + 1) - z) / a, sample_slope(a, y) / y)


# ---------------------------------------------------------------- incomplete beta function


@derivative("regularized_incomplete_beta", "a, b, x -> y", wrt="x")
def regularized_incomplete_beta_vjp_x(a, b, x):
    """y = I(a, b, x); its derivative is the beta density (DLMF 8.17.1)."""
    return in_wide(beta_density, a, b, x)


@derivative("regularized_incomplete_beta", "a, b, x -> y", wrt="a")
def regularized_incomplete_beta_vjp_a(a, b, x):
    return in_wide(lambda a, b, x: beta_slope(a, b, x, _complement(x)), a, b, x)


@vjp_rule("regularized_incomplete_beta", "a, b, x -> y", wrt="b")
def regularized_incomplete_beta_vjp_b(dy, a, b, x):
    """I(a, b, x) = 1 - I(b, a, 1 - x) (DLMF 8.17.4), so ∂y/∂b is the mirror image of ∂y/∂a."""
    return -(dy * in_wide(lambda a, b, x: beta_slope(b, a, _complement(x), x), a, b, x))


def _complement(x):
    return lax.sub(scalar(1, x), x)


@jax.jit
def beta_density(a, b, x):
    """x^(a-1)·(1-x)^(b-1)/B(a, b); an exponent of zero makes its factor 1, at the ends too."""
    left = jnp.where((x == 0) & (a == 1), 0, (a - 1) * jnp.log(x))
    right = jnp.where((x == 1) & (b == 1), 0, (b - 1) * jnp.log1p(-x))
    return jnp.exp(left + right - _log_beta(a, b))


@jax.jit
def beta_slope(a, b, x, rest):
    """∂I(a, b, x)/∂a, where rest = 1 - x; 0 at both ends, NaN beyond them.

    The density p of DLMF 8.17.1 depends on a as ∂p/∂a = p·h with h(t) = log t - (ψ(a) - ψ(a + b)). The integral of
    p·h over (0, 1) is that of ∂p/∂a, zero, so ∫₀ˣ = -∫ₓ¹, and the tail that does not hold the mode of logit t is taken.
    Say it is the upper one (the lower one is its mirror image: t and 1-t, a and b exchange). With logit t = logit x + s
    and A(s) = log(x + (1-x)e⁻ˢ):  log t = log x - A,  log(1-t) = log(1-x) - s - A,  and
    p dt = x^a·(1-x)^b/B(a, b)·exp(-fall(s)) ds, where fall(s) = (a + b)·A + b·s.
    """
    a, b, x, rest = _with_node_axis(a, b, x, rest)
    inside = (x > 0) & (rest > 0)
    x_safe, rest_safe = jnp.where(inside, x, 0.5), jnp.where(inside, rest, 0.5)
    upper = x_safe * (a + b) > a
    near, far = jnp.where(upper, x_safe, rest_safe), jnp.where(upper, rest_safe, x_safe)
    exponent = jnp.where(upper, b, a)
    offset = jnp.log(x_safe) - (lax.digamma(a) - lax.digamma(a + b))

    def log_mix(s):  # A(s), near s = 0 by log1p
        shrink = far * jnp.expm1(-s)
        small = shrink > -0.5
        return jnp.where(small, jnp.log1p(jnp.where(small, shrink, 0)), jnp.log(near + far * jnp.exp(-s)))

    def fall(s):
        return (a + b) * log_mix(s) + exponent * s

    def weight(s):
        return offset - log_mix(s) - jnp.where(upper, 0, s)

    scale = jnp.exp(a * jnp.log(x_safe) + b * jnp.log(rest_safe) - _log_beta(a, b))
    slope = jnp.where(upper, -scale, scale) * tail_integral(fall, weight, x_safe)
    return jnp.where(inside, slope, jnp.where((x == 0) | (rest == 0), 0, jnp.nan))[0]


def _log_beta(a, b):
    """log B(a, b) (DLMF 5.12.1)."""
    return lax.lgamma(a) + lax.lgamma(b) - lax.lgamma(a + b)
