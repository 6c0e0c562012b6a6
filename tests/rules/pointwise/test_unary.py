"""Rules of one operand: inside the domain to second order, then at its edges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop import registry

from ..checking import assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")

ALL = ("float64", "float32", "bfloat16", "float16")
# name: where it is defined and smooth, and whether complex numbers are accepted
DOMAINS = {
    "neg": (-3, 3, True),
    "square": (-3, 3, True),
    "sqrt": (0.1, 4, True),
    "rsqrt": (0.1, 4, True),
    "cbrt": (0.1, 4, False),
    "exp": (-3, 3, True),
    "exp2": (-3, 3, True),
    "expm1": (-3, 3, True),
    "log": (0.1, 4, True),
    "log1p": (-0.8, 4, True),
    "logistic": (-3, 3, True),
    "sin": (-3, 3, True),
    "cos": (-3, 3, True),
    "tan": (-1.4, 1.4, True),
    "asin": (-0.9, 0.9, True),
    "acos": (-0.9, 0.9, True),
    "atan": (-3, 3, True),
    "sinh": (-3, 3, True),
    "cosh": (-3, 3, True),
    "tanh": (-3, 3, True),
    "asinh": (-3, 3, True),
    "acosh": (1.1, 4, True),
    "atanh": (-0.9, 0.9, True),
}
ONLY_NEWER = {"log2": (0.1, 4, True), "one_minus_square": (-3, 3, True)}  # JAX 0.12
DOMAINS |= {name: row for name, row in ONLY_NEWER.items() if hasattr(lax, name)}
# The points at which functions end, are infinite, or change sign.
QUADRANTS = np.asarray([0.6 + 0.4j, -0.7 + 0.5j, -0.3 - 0.8j, 1.4 - 0.6j, 0.2 + 1.7j])
EDGES = (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-30, 1e30, -1e30, math.inf, -math.inf, math.nan)


def points(low, high, shape=(5,), seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape))


@pytest.mark.parametrize("name", DOMAINS)
def test_unary_vjp(name):
    low, high, _ = DOMAINS[name]
    check_vjp(getattr(lax, name), points(low, high), dtypes=ALL)


@pytest.mark.parametrize("shape", [(), (0,), (2, 1)], ids=str)
@pytest.mark.parametrize("name", DOMAINS)
def test_unary_vjp_shapes(name, shape):
    low, high, _ = DOMAINS[name]
    check_vjp(getattr(lax, name), points(low, high, shape), dtypes=("float64",), batched=False)


@pytest.mark.parametrize("name", [name for name, row in DOMAINS.items() if row[2]])
def test_unary_vjp_complex(name):
    """All four quadrants, away from the branch cuts."""
    x = QUADRANTS if name != "acosh" else QUADRANTS[QUADRANTS.real > 0]
    check_vjp(getattr(lax, name), x, tolerance=4)  # JAX's complex functions differ in their last digits


def test_acosh_vjp_complex():
    """The left half plane too, where JAX 0.10.2 has the other branch of the root: against differences."""
    ones = jnp.ones_like(QUADRANTS)
    got = fb.vjp(lax.acosh, QUADRANTS)[1](ones)[0]
    h = 1e-4
    at = {k: lax.acosh(QUADRANTS + k * h) for k in (-2, -1, 1, 2)}
    assert_close(got, (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h), 1e-11)


# Where one JAX version has another answer: rsqrt(-0.0) = -∞ has -y³/2; below its
# domain acosh is NaN; the square of 1e30 overflows in float32.
DIFFERENT_AT = {("rsqrt", "-0.0"): math.inf}
DIFFERENT_AT |= {("acosh", point): math.nan for point in ("-1.0", "-2.0", "-1e+30", "-inf")}
DIFFERENT_AT |= dict.fromkeys([("asinh", "1e+30"), ("asinh", "-1e+30"), ("acosh", "1e+30")], 1e-30)


@pytest.mark.parametrize("name", DOMAINS)
def test_unary_vjp_edges(name):
    """Element by element, infinities and NaN included, what JAX gives."""
    fun = getattr(lax, name)
    for dtype in ("float64", "float32"):
        x = jnp.asarray(EDGES, dtype)
        ours, theirs = (np.asarray(transform(fun, x)[1](jnp.ones_like(x))[0]) for transform in (fb.vjp, jax.vjp))
        for point, got, want in zip(EDGES, ours, theirs, strict=True):
            want = DIFFERENT_AT.get((name, str(point)), want)
            bound = 1e-5 if dtype == "float32" else 1e-12
            assert_close(got, np.asarray(want, dtype), bound, f"{name} at {point} in {dtype}: ")


@pytest.mark.parametrize("power, complex_", [(-3, False), (-1, True), (0, False), (1, True), (2, False), (7, True)])
def test_integer_pow_vjp(power, complex_):
    x = random_like(np.zeros(4, complex if complex_ else float), 3)
    check_vjp(lambda x: lax.integer_pow(x, power), x, tolerance=4)


@pytest.mark.parametrize("power", [-1, 0, 1, 2, 3])
def test_integer_pow_vjp_at_zero(power):
    ours, theirs = (transform(lambda x: lax.integer_pow(x, power))(0.0) for transform in (fb.grad, jax.grad))
    assert ours == theirs


@pytest.mark.skipif(not hasattr(lax, "polynomial"), reason="a primitive of JAX 0.12")
@pytest.mark.parametrize(
    "degree, shapes",
    [(1, ((), ())), (2, ((3,), ())), (5, ((3,), (3,))), (12, ((2, 3), (1, 3))), (1, ((0,), ()))],
    ids=str,
)
def test_polynomial_vjp(degree, shapes):
    x, *coefficients = (random_like(np.zeros(shapes[i > 0]), i) for i in range(degree + 2))

    def fun(x, c):
        return lax.polynomial(x, [c * k if k % 3 else jnp.full_like(c, 0.5) for k in range(degree + 1)])

    check_vjp(fun, x, coefficients[0])


def test_asin_vjp_next_to_one():
    """1 - x² is taken as (1 - x)(1 + x): right to rounding where x² is near 1, in float32 too."""
    x = np.float32(1) - np.float32(2) ** -20
    exact = 1 / math.sqrt((1 - float(x)) * (1 + float(x)))
    for fun, sign in ((lax.asin, 1), (lax.acos, -1)):
        assert_close(np.float64(fb.grad(fun)(x)), np.float64(sign * exact), 3e-7)


def test_tanh_and_logistic_read_the_output_alone():
    """Nothing but y is saved: one residual of the operand's size."""
    for fun in (lax.tanh, lax.logistic, lax.exp, lax.sqrt, lax.rsqrt, lax.tan):
        _, pullback = fb.vjp(fun, jnp.ones(7))
        assert [leaf.shape for leaf in jax.tree.leaves(pullback)] == [(7,)]
        assert_close(jax.tree.leaves(pullback)[0], fun(jnp.ones(7)), 1e-14)


@pytest.mark.parametrize("name", ["sin", "cos", "tanh", "logistic", "expm1", "exp", "tan"])
def test_accuracy_is_obeyed_to_third_order(name):
    """Each function that has the parameter has the user's, whatever the order."""

    def fun(x):
        return getattr(lax, name)(x, accuracy=lax.AccuracyMode.HIGHEST)

    text = str(jax.make_jaxpr(fb.grad(fb.grad(fb.grad(fun))))(0.3))
    assert "HIGHEST" in text and "accuracy=None" not in text


def test_accuracy_in_the_tails():
    """1 - tanh², y(1 - y) and y + 1 have lost their digits there; with an accuracy, the derivative is right to
    rounding, and so is the next one near 0."""
    highest = {"accuracy": lax.AccuracyMode.HIGHEST}
    for name, points, exact in (
        ("tanh", (-9.0, 8.0, 0.1, 40.0), lambda x: 1 / np.cosh(x) ** 2),
        ("logistic", (-17.0, 16.0, 0.1, 80.0), lambda x: 0.25 / np.cosh(x / 2) ** 2),
        ("expm1", (-17.0, 2.0, 0.1, -80.0), np.exp),
    ):
        x = jnp.float32(points)
        got = fb.vjp(lambda x, name=name: getattr(lax, name)(x, **highest), x)[1](jnp.ones_like(x))[0]
        assert_close(np.float64(got) / exact(np.float64(x)), np.ones(4), 1e-6, name)
    second = fb.grad(fb.grad(lambda x: lax.tanh(x, **highest)))(np.float32(1e-12))
    assert_close(np.float64(second), np.float64(-2e-12), 1e-6)


def test_a_wrong_rule_is_found(plant):
    """A planted error: the derivative is taken at x·(1 + 1e-9)."""
    plant("sin")

    @registry.vjp_rule("sin")
    def sin_vjp(dy, x):
        return lax.mul(dy, lax.cos(lax.mul(x, np.float64(1 + 1e-9))))

    with pytest.raises(AssertionError, match="relative error"):
        check_vjp(lambda x: lax.sin(x) + 0.5, points(-3, 3), dtypes=("float64",))
