"""Special functions against JAX, and where it refuses against differences, recurrences and closed forms."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.pointwise.special import zeta_slope

from ..checking import assert_close, check_numeric, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")

DOMAINS = {
    "erf": (-2, 2),
    "erfc": (-2, 2),
    "erf_inv": (-0.9, 0.9),
    "lgamma": (0.2, 5),
    "digamma": (0.2, 5),
    "bessel_i0e": (-3, 3),
    "bessel_i1e": (-3, 3),
}
EDGES = {
    "erf": (0.0, 30.0, math.inf, math.nan),
    "erfc": (0.0, 30.0, -math.inf, math.nan),
    "erf_inv": (0.0, 1.0, -1.0, 1.5, math.nan),
    "lgamma": (-0.5, -2.5, 1e30, math.nan),
    "digamma": (-0.5, -2.5, 0.0, math.nan),
    "bessel_i0e": (0.0, -0.0, 1e-20, 800.0, -800.0, math.nan),
    "bessel_i1e": (0.0, -0.0, 800.0, -800.0, math.nan),
}


def points(low, high, shape=(5,), seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape))


@pytest.mark.parametrize("name", DOMAINS)
def test_special_vjp(name):
    check_vjp(getattr(lax, name), points(*DOMAINS[name]), dtypes=("float64", "float32", "bfloat16"))


@pytest.mark.parametrize("shape", [(), (0,), (2, 1)], ids=str)
@pytest.mark.parametrize("name", DOMAINS)
def test_special_vjp_shapes(name, shape):
    check_vjp(getattr(lax, name), points(*DOMAINS[name], shape), dtypes=("float64",), order=1, batched=False)


@pytest.mark.parametrize("name", EDGES)
def test_special_vjp_edges(name):
    x = jnp.asarray(EDGES[name])
    ours, theirs = (transform(getattr(lax, name), x)[1](jnp.ones_like(x)) for transform in (fb.vjp, jax.vjp))
    for i, point in enumerate(EDGES[name]):
        if name == "bessel_i0e" and point == 0:
            assert ours[0][i] == -1  # the slope from the right; JAX says 0
            continue
        if name == "bessel_i1e" and math.isnan(point):
            assert np.isnan(ours[0][i])  # JAX says 1/2
            continue
        assert_close(ours[0][i], theirs[0][i], 1e-10, f"{name} at {point}: ")


def test_bessel_i1e_vjp_near_zero():
    """I₁(x)/x tends to ½: the quotient keeps its digits however small x is, where JAX returns ½."""
    x = jnp.asarray([1e-300, 1e-20, 1e-8, -1e-8])
    exact = 0.5 - jnp.abs(x)  # e^(-|x|)·I₁(x) = x/2·(1 - |x| + O(x²))
    assert_close(fb.vjp(lax.bessel_i1e, x)[1](jnp.ones(4))[0], exact, 1e-14)
    x = jnp.array([0.0, 1e-20, 1e-5])
    second = jax.vmap(fb.grad(fb.grad(lax.bessel_i1e)))(x)
    assert_close(second, -1 + 15 / 8 * x, 1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bessel_vjp_far_out(dtype):
    """e^-|x|·I₀ and e^-|x|·I₁ differ by 1 part in 2|x|. The difference loses as much, where the series is not exact."""
    x, eps = np.array([10.5, 12.0, 15.0, 20.0, 29.5, 31.0, 70.0]), float(jnp.finfo(dtype).eps)
    lost = np.where(x < 30, 4 * x, 4) if dtype == "float64" else 4
    for name, order in (("bessel_i0e", 0), ("bessel_i1e", 1)):
        found = np.array(fb.vjp(getattr(lax, name), x.astype(dtype))[1](np.ones(7, dtype))[0], float)
        exact = [mpmath.diff(lambda t, v=order: mpmath.exp(-t) * mpmath.besseli(v, t), t) for t in x]
        assert np.all(np.abs(found - np.array(exact, float)) <= lost * eps * np.abs(found)), name


@pytest.mark.parametrize("m", [0, 1, 4])
def test_polygamma_vjp_x(m):
    check_vjp(lambda x: lax.polygamma(jnp.full_like(x, m), x), points(0.3, 4))


def test_polygamma_vjp_m():
    """ψ⁽ᵐ⁾ exists for whole m alone."""
    with pytest.raises(ValueError, match="no derivative with respect to its order m"):
        fb.grad(lax.polygamma)(jnp.float64(1), jnp.float64(2))


# ---------------------------------------------------------------- zeta

ZETA_X, ZETA_Q = np.array([1.05, 1.5, 2.0, 4.7, 30.0]), np.array([0.1, 1.0, 2.3, 0.7, 11.0])


def test_zeta_vjp():
    """JAX refuses both arguments: against differences, to second order."""
    check_numeric(lax.zeta, ZETA_X, ZETA_Q)

    def slopes(x, q):
        return fb.vjp(lax.zeta, x, q)[1](jnp.ones_like(x))

    check_numeric(slopes, ZETA_X[1:], ZETA_Q[1:])


def test_zeta_vjp_closed_forms():
    """ζ'(2) = π²/6·(γ + log 2π - 12·log A), with Glaisher's A; ∂ζ/∂q at x = 2 is ψ''; ζ(x, ½) = (2ˣ - 1)ζ(x)."""
    glaisher, two = 1.2824271291006226369, jnp.float64(2)
    want = math.pi**2 / 6 * (np.euler_gamma + math.log(2 * math.pi) - 12 * math.log(glaisher))
    assert_close(fb.grad(lax.zeta)(two, jnp.float64(1)), np.float64(want), 1e-14)
    assert_close(fb.grad(lax.zeta, argnums=1)(two, two), lax.polygamma(two, two), 1e-14)
    x = jnp.asarray([1.3, 2.5, 7.0])
    half, one = jnp.full(3, 0.5), jnp.ones(3)
    want = 2**x * math.log(2) * lax.zeta(x, one) + (2**x - 1) * zeta_slope(x, one)
    assert_close(zeta_slope(x, half), want, 1e-14)


def test_zeta_vjp_recurrence():
    """ζ(x, q) - ζ(x, q + 1) = q⁻ˣ, so the slopes differ by -log(q)·q⁻ˣ, at any x and q."""
    x, q = np.meshgrid(np.array([1.001, 1.5, 3.0, 12.0, 60.0, 100.0]), np.array([1e-3, 0.5, 2.0, 9.0, 80.0]))
    difference = zeta_slope(jnp.asarray(x), jnp.asarray(q)) - zeta_slope(jnp.asarray(x), jnp.asarray(q + 1))
    want = -np.log(q) * q**-x
    scale = np.abs(np.asarray(zeta_slope(jnp.asarray(x), jnp.asarray(q))))
    assert np.all(np.abs(difference - want) <= 1e-13 * scale)


def test_zeta_vjp_batched_and_in_low_precision():
    x, q = jnp.asarray(ZETA_X[1:4]), jnp.asarray(ZETA_Q[1:4])
    exact = fb.vjp(lax.zeta, x, q)[1](jnp.ones(3))
    got = jax.vmap(lambda x, q: fb.vjp(lax.zeta, x, q)[1](jnp.float64(1)))(x, q)
    assert_close(got, exact, 1e-13)
    narrow = fb.vjp(lax.zeta, x.astype("float32"), q.astype("float32"))[1](jnp.ones(3, "float32"))
    assert_close(jax.tree.map(lambda g: g.astype("float64"), narrow), exact, 1e-5)
    assert_close(fb.vjp(lax.zeta, jnp.ones(0), jnp.ones(0))[1](jnp.ones(0)), (jnp.ones(0),) * 2, 0)


# ---------------------------------------------------------------- random numbers


def test_rng_uniform_vjp():
    """Each run draws anew, so the cotangents are compared with the draw that came with them, to second order."""

    @jax.jit
    def both(a, b, dy, dda):
        def first(a, b):
            y, pullback = fb.vjp(lambda a, b: lax.rng_uniform(a, b, (5, 2)), a, b)
            return pullback(dy), y

        (found, y), pullback = fb.vjp(first, a, b)
        return found, y, pullback(((dda, jnp.zeros_like(dda)), jnp.zeros_like(y)))

    a, b = jnp.float64(-1.5), jnp.float64(2.0)
    dy = random_like(jnp.zeros((5, 2)))
    found, y, second = both(a, b, dy, jnp.float64(0.7))
    u = (y - a) / (b - a)
    assert 0 <= u.min() and u.max() < 1
    assert_close(found, (jnp.sum(dy * (1 - u)), jnp.sum(dy * u)), 1e-12)
    np.testing.assert_allclose(np.asarray(second), 0, atol=1e-12)  # y is linear in a and b
    with pytest.raises(NotImplementedError):
        jax.grad(lambda a: lax.rng_uniform(a, b, (3,)).sum())(a)


def test_digamma_vjp_left_of_zero():
    """By reflection, where JAX's trigamma is NaN: against scipy's, and infinite at the poles; to second order."""
    x = np.array([-0.3, -1.5, -2.75, -10.2, 0.4])
    reflected = np.where(x < 0, np.pi**2 / np.sin(np.pi * x) ** 2 - scipy.special.polygamma(1, 1 - x), 0)
    want = np.where(x < 0, reflected, scipy.special.polygamma(1, np.abs(x)))
    gradient = fb.grad(lambda x: jnp.sum(lax.digamma(x)))
    assert_close(gradient(jnp.asarray(x)), jnp.asarray(want), 1e-12)
    assert fb.grad(lax.digamma)(-2.0) == np.inf
    check_numeric(gradient, x)


def test_i0_has_the_slope_zero_at_zero():
    """exp(|x|) has the slope 1 there, as abs has, and so i0e has -1: those from the right. JAX gives i0 the slope 1."""
    assert fb.grad(jax.scipy.special.i0)(0.0) == 0 and fb.grad(lax.bessel_i0e)(0.0) == -1
    assert fb.grad(fb.grad(jax.scipy.special.i0))(0.0) == pytest.approx(0.5)


def test_gammainc_at_infinity():
    for fun in (jax.scipy.special.gammainc, jax.scipy.special.gammaincc):
        assert [float(g) for g in fb.grad(fun, (0, 1))(2.5, np.inf)] == [0, 0]
