"""Incomplete gamma and beta functions in all arguments; JAX refuses a and b of the latter, and second order in a."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.rules.pointwise import incomplete

from ..checking import assert_close, check_numeric, check_vjp

pytestmark = pytest.mark.usefixtures("x64")

# Small, middling and large a; x below, at and beyond the bulk of the distribution.
A = np.array([0.2, 0.5, 1.3, 4.0, 4.0, 30.0])
X = np.array([0.05, 0.9, 1.3, 0.7, 9.0, 28.0])


def pulled(fun):
    """The cotangents of all operands for a cotangent of ones."""

    def slopes(*args):
        y, pullback = fb.vjp(fun, *args)
        return pullback(jnp.ones_like(y))

    return slopes


@pytest.mark.parametrize("name", ["igamma", "igammac"])
def test_igamma_vjp(name):
    """In a and x against JAX; its own second order in a is refused, so against differences."""
    fun = getattr(lax, name)
    check_vjp(fun, A, X, order=1, tolerance=10)  # JAX's density is x^(a-1) by other steps
    check_numeric(pulled(fun), A, X)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["igamma", "igammac"])
def test_igamma_vjp_low_precision(name, dtype):
    fun, args = getattr(lax, name), [jnp.asarray(v[1:4], dtype) for v in (A, X)]
    got = pulled(fun)(*args)
    exact = pulled(fun)(*(v.astype("float64") for v in args))
    bound = 2e-5 if dtype == "float32" else 0.03
    for g, e in zip(got, exact, strict=True):
        assert g.dtype == dtype
        assert_close(g.astype("float64"), e, bound)


def test_igamma_grad_a_vjp():
    check_numeric(lax.igamma_grad_a, A, X)


def test_igamma_grad_a_vjp_third_order():
    """The quadrature is differentiated like any other program: ∂³P/∂a³ and its mixed companions."""
    check_numeric(pulled(lax.igamma_grad_a), A[1:4], X[1:4])


def test_igamma_vjp_closed_form():
    """P(1, x) = 1 - e⁻ˣ, and P(a, x) = P(a + 1, x) + xᵃe⁻ˣ/Γ(a + 1), differentiated twice in a."""
    x = jnp.asarray(X)
    assert_close(fb.vjp(lambda x: lax.igamma(jnp.ones(6), x), x)[1](jnp.ones(6))[0], jnp.exp(-x), 1e-14)

    def curvature(a):
        return fb.vjp(lambda a: lax.igamma_grad_a(a, x), a)[1](jnp.ones(6))[0]

    a = jnp.asarray(A)
    term = jnp.exp(a * jnp.log(x) - x - lax.lgamma(a + 1))
    slope = jnp.log(x) - lax.digamma(a + 1)
    want = term * (slope**2 - lax.polygamma(jnp.ones(6), a + 1))
    assert_close(curvature(a) - curvature(a + 1), want, 1e-12)


def test_igamma_vjp_at_zero():
    """The density at 0 is infinite, 1 or 0; at a = 1 JAX has NaN."""
    a = jnp.asarray([0.5, 1.0, 2.0])
    got = fb.vjp(lax.igamma, a, jnp.zeros(3))[1](jnp.ones(3))
    assert_close(got, (jnp.zeros(3), jnp.asarray([np.inf, 1.0, 0.0])), 0)
    assert_close(fb.vjp(lax.igamma_grad_a, a, jnp.zeros(3))[1](jnp.ones(3))[0], jnp.zeros(3), 0)


SHAPES = [((), (), ()), ((0,), (0,), ()), ((2, 1), (), (2, 1)), ((), (), (3,)), ((1, 2), (2, 1), (2, 2))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["igamma_grad_a", "betainc"])
def test_incomplete_vjp_shapes(name, shapes):
    """Operands of rank 0 and of size 1 beside others: each gets the sum of its elements' cotangents."""
    fun = getattr(lax, name)
    values = (1.7, 0.4) if name == "igamma_grad_a" else (1.7, 0.8, 0.4)
    shapes = shapes[-len(values) :]
    single = pulled(fun)(*map(jnp.float64, values))
    operands = [jnp.full(shape, v) for shape, v in zip(shapes, values, strict=True)]
    size = np.broadcast(*operands).size
    found = jax.jit(pulled(fun))(*operands)
    for got, want, shape in zip(found, single, shapes, strict=True):
        assert_close(got, jnp.full(shape, want * (size / max(np.prod(shape), 1))), 1e-13)


# ---------------------------------------------------------------- samples


KEY = 11


@pytest.mark.parametrize("name", ["gamma", "loggamma", "dirichlet"])
def test_random_gamma_vjp(name):
    """As JAX's, which has them to first order."""
    draw, a = getattr(jax.random, name), jnp.asarray([0.3, 1.0, 7.5, 200.0])

    def loss(a):
        return jnp.sum(jnp.sin(draw(jax.random.key(KEY), a)))

    ours, theirs = jax.jit(lambda a: (fb.grad(loss)(a), jax.grad(loss)(a)))(a)
    assert_close(ours, theirs, 1e-12)


def test_sample_slope_second_order():
    """g(a, y) = -(∂P/∂a)/p, whose derivatives JAX does not have, against differences in both."""
    y = np.array([0.02, 0.6, 1.0, 3.0, 6.5, 25.0])
    check_numeric(incomplete.sample_slope, A, y)
    check_numeric(pulled(incomplete.sample_slope), A[1:4], y[1:4])
    check_numeric(incomplete.log_sample_slope, A, np.log(y))
    check_numeric(incomplete.log_sample_slope, A[:2], np.array([-50.0, -900.0]))


def test_log_sample_slope_does_not_underflow():
    """Where y = eᶻ is zero, P(a, y) = yᵃ/Γ(a + 1) holds exactly; JAX stops at the smallest float."""
    a, z = jnp.float64(1e-4), jnp.float64(-11123.6)
    assert_close(incomplete.log_sample_slope(a, z), (lax.digamma(a + 1) - z) / a, 1e-15)
    bound = float(np.log(np.finfo(float).eps)) - 1
    below, above = (incomplete.log_sample_slope(jnp.float64(0.5), jnp.float64(bound + d)) for d in (-1e-9, 1e-9))
    assert_close(below, above, 1e-9)


def test_random_gamma_vjp_moments():
    """E[y] = a and E[y²] = a² + a: the mean of the cotangents is 1, and 2a + 1, within five standard errors."""
    a = jnp.full(4000, 1.7)

    def fun(a):
        return jax.random.gamma(jax.random.key(KEY), a)

    for power, want in ((1, 1.0), (2, 2 * 1.7 + 1)):
        got = np.asarray(jax.jit(fb.grad(lambda a, n=power: jnp.sum(fun(a) ** n)))(a))
        assert abs(got.mean() - want) < 5 * got.std() / np.sqrt(got.size)


# ---------------------------------------------------------------- incomplete beta function


BETA_A = np.array([0.3, 0.5, 1.0, 2.0, 5.0, 40.0, 3.0])
BETA_B = np.array([0.4, 3.0, 1.0, 0.7, 5.0, 25.0, 3.0])
BETA_X = np.array([0.01, 0.4, 0.3, 0.99, 0.5, 0.6, 0.2])


def test_regularized_incomplete_beta_vjp():
    """In a and b, which JAX refuses, and x, to second order."""
    check_numeric(lax.betainc, BETA_A, BETA_B, BETA_X)
    check_numeric(pulled(lax.betainc), BETA_A, BETA_B, BETA_X, tolerance=1e-6)


def test_regularized_incomplete_beta_vjp_x():
    def fun(x):
        return lax.betainc(jnp.asarray(BETA_A, x.dtype), jnp.asarray(BETA_B, x.dtype), x)

    check_vjp(fun, jnp.asarray(BETA_X), dtypes=("float64", "float32"), batched=False, tolerance=10)


def test_regularized_incomplete_beta_vjp_closed_forms():
    """I(a, 1, x) = xᵃ, and I(1, b, x) = 1 - (1 - x)ᵇ, from the smallest x to the largest."""
    a = jnp.asarray([1e-3, 0.2, 1.0, 8.0, 300.0, 2.0, 0.5])
    x = jnp.asarray([0.5, 1e-200, 0.3, 0.9, 0.999, 1 - 1e-12, 1e-9])
    one = jnp.ones(7)
    got = fb.vjp(lax.betainc, a, one, x)[1](one)[0]
    for g, w in zip(got, x**a * jnp.log(x), strict=True):
        assert_close(g, w, 2e-12)
    got = fb.vjp(lax.betainc, one, a, x)[1](one)[1]
    for g, w in zip(got, -((1 - x) ** a) * jnp.log1p(-x), strict=True):
        assert_close(g, w, 2e-12)


def test_regularized_incomplete_beta_vjp_ends():
    """0 in a and b at x = 0 and 1, NaN beyond; the density there by its exponents, at 1 too, where JAX has NaN."""
    a, b, x = (jnp.asarray(v) for v in ([2.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 1.0], [0.0, 1.0, 0.0, 1.0]))
    got = fb.vjp(lax.betainc, a, b, x)[1](jnp.ones(4))
    assert_close(got, (jnp.zeros(4), jnp.zeros(4), jnp.asarray([0.0, 0.0, 3.0, 2.0])), 1e-14)
    beyond = fb.vjp(lax.betainc, a[:2], b[:2], jnp.asarray([-0.5, 1.5]))[1](jnp.ones(2))
    assert all(np.isnan(g).all() for g in beyond)


def test_regularized_incomplete_beta_vjp_batched_and_narrow():
    args = [jnp.asarray(v) for v in (BETA_A, BETA_B, BETA_X)]
    exact = jax.jit(pulled(lax.betainc))(*args)
    assert_close(jax.vmap(pulled(lax.betainc))(*args), exact, 1e-12)
    for dtype, bound in (("float32", 1e-4), ("bfloat16", 0.05)):  # log B loses digits at a = 40 in float32
        narrow = [v.astype(dtype) for v in args]
        got = jax.jit(pulled(lax.betainc))(*narrow)
        want = jax.jit(pulled(lax.betainc))(*(v.astype("float64") for v in narrow))
        assert_close([g.astype("float64") for g in got], list(want), bound)


def test_a_wrong_rule_is_found(plant):
    """A planted error: the mean of log t without its second digamma."""
    plant("igamma_grad_a")

    @registry.vjp_rule("igamma_grad_a", "a, x -> y")
    def igamma_grad_a_vjp(dy, a, x):
        slope = incomplete.gamma_density(a, x) * x * incomplete.gamma_curvature(a, x)
        return dy * slope * 1.001, dy * incomplete.gamma_density(a, x) * (jnp.log(x) - lax.digamma(a))

    with pytest.raises(AssertionError, match="differences"):
        check_numeric(lax.igamma_grad_a, A[:2], X[:2])
