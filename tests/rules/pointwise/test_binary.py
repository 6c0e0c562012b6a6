"""Rules of two and more operands: operands of rank n and 0, every dtype, kinks and ties apart from smooth points."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..checking import assert_close, check_numeric, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")

ALL = ("float64", "float32", "bfloat16")
SHAPES = [((3,), (3,)), ((3,), ()), ((), (3,)), ((), ()), ((0,), ()), ((2, 3), (1, 3))]


def operands(*shapes, low=-2.0, high=2.0, complex_=False):
    """Random operands with no ties."""
    rng = np.random.default_rng(5)
    real = [rng.uniform(low, high, shape) for shape in shapes]
    return [jnp.asarray(x + 1j * rng.uniform(-2, 2, x.shape) if complex_ else x) for x in real]


SMOOTH = {  # name: the range of its operands
    "add": (-2, 2),
    "sub": (-2, 2),
    "mul": (-2, 2),
    "div": (0.5, 2),
    "rem": (0.5, 2),
    "pow": (0.5, 2),
    "atan2": (-2, 2),
    "max": (-2, 2),
    "min": (-2, 2),
}


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", SMOOTH)
def test_binary_vjp(name, shapes):
    low, high = SMOOTH[name]
    plain = shapes == SHAPES[0]
    dtypes = ALL if plain else ("float64",)
    check_vjp(getattr(lax, name), *operands(*shapes, low=low, high=high), dtypes=dtypes, batched=plain)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "atan2"])
def test_binary_vjp_complex(name):
    x, y = operands((4,), (4,), low=0.3, complex_=True)
    check_vjp(getattr(lax, name), x, y, tolerance=10)  # JAX's complex powers differ in their last digits


def test_add_any_vjp():
    """The sum that JAX's own backward pass emits: its gradient is differentiated by ours."""

    def fun(x):
        return jax.grad(lambda x: lax.sin(x) * lax.exp(x) + lax.square(x))(x)

    assert "add_any" in str(jax.make_jaxpr(fun)(0.7))
    assert_close(fb.grad(fun)(0.7), jax.grad(fun)(0.7), 1e-14)


@pytest.mark.parametrize("y", [0, 3, -2, [0, 1, 2]], ids=str)
def test_pow_vjp_integer_exponent(y):
    with jax.numpy_dtype_promotion("standard"):  # JAX's own derivative needs it
        check_vjp(lambda x: lax.pow(x, jnp.asarray(y)), jnp.asarray([0.5, -1.5, 2.0]))


POW_EDGES = [(0.0, 1.0), (0.0, 2.0), (0.0, 0.5), (2.0, 0.0), (-2.0, 2.0), (-2.0, 0.5), (math.inf, 0.0)]
POW_EDGES += [(1.0, math.nan), (math.nan, 2.0), (0.0, math.nan)]


@pytest.mark.parametrize("x, y", POW_EDGES)
def test_pow_vjp_edges(x, y):
    """As JAX: 0ʸ has the derivative 0 in y, and a negative x none."""
    ours, theirs = (transform(lax.pow, x, y)[1](jnp.float64(1)) for transform in (fb.vjp, jax.vjp))
    assert_close(ours, theirs, 1e-14)


def test_pow_vjp_second_order_at_exponent_zero():
    """∂²(xʸ)/∂x∂y = 1/x at y = 0."""
    x = jnp.asarray([0.5, 2.0])
    check_vjp(lax.pow, x, jnp.zeros(2), dtypes=("float64",))


def test_pow_vjp_zero_to_the_zero():
    """x⁰ is constant in x: 0 at x = 0 too, where JAX has 0·∞."""
    assert fb.grad(lax.pow, argnums=(0, 1))(0.0, 0.0) == (0.0, 0.0)


def test_pow_vjp_of_a_zero_among_integer_exponents():
    """x⁰ is constant, at NaN, 0, ±inf and where 1/x overflows too; to second order."""
    x = jnp.asarray([math.nan, 0.0, 1e-6, math.inf, -3.0, 2.0], "float16")
    y = np.int32([0, 0, 0, 0, 0, 3])
    both = [fb.grad(lambda x: jnp.sum(lax.pow(x, y)))]
    both.append(fb.grad(lambda x: jnp.sum(both[0](x))))
    assert [run(x).tolist() for run in both] == [[0, 0, 0, 0, 0, 12], [0, 0, 0, 0, 0, 12]]
    y = jnp.zeros(6, "float16")
    assert fb.grad(lambda x: jnp.sum(lax.pow(x, y)))(x).tolist() == [0] * 6


REM_EDGES = [(5.0, 3.0), (-5.0, 3.0), (5.0, -3.0), (6.0, 3.0), (5.0, math.inf), (0.0, 2.0)]


@pytest.mark.parametrize("x, y", REM_EDGES)
def test_rem_vjp_edges(x, y):
    ours, theirs = (transform(lax.rem, x, y)[1](jnp.float64(1)) for transform in (fb.vjp, jax.vjp))
    assert_close(ours, theirs, 1e-14)


def test_rem_vjp_where_the_quotient_rounds():
    """1/0.1 rounds to 10, but 0.1 goes into 1 nine times; JAX has -10."""
    assert fb.grad(jnp.mod, 1)(1.0, 0.1) == -9 == fb.grad(lax.rem, 1)(1.0, 0.1)
    assert np.isnan(fb.grad(lax.rem, 1)(5.0, 0.0))  # so is the remainder itself


def test_atan2_and_abs_vjp_of_large_and_small_numbers():
    """Squares of these leave the range of float32. JAX gives 0, NaN or infinity."""
    for scale in (1e25, 1e-25):
        x, y = np.float32([3, -4, 0, 1]) * np.float32(scale), np.float32([4, 3, 1, 0]) * np.float32(scale)
        got = fb.vjp(lax.atan2, x, y)[1](jnp.full(4, scale, "float32"))
        square = np.float64([25, 25, 1, 1])
        want = tuple(np.float64(v) / scale / square for v in (y, -x))
        assert_close(tuple(np.float64(v) for v in got), want, 2e-7)
        z = lax.complex(x, y)
        for fun, cotangent in ((lax.abs, jnp.ones(4, "float32")), (lax.sign, jnp.full(4, scale * 1j, "complex64"))):
            at_one = fb.vjp(fun, z / np.complex64(scale))[1](cotangent / (1 if fun is lax.abs else np.complex64(scale)))
            assert_close(fb.vjp(fun, z)[1](cotangent), at_one, 1e-6)
    check_vjp(lax.atan2, jnp.asarray([0.0, 1.0, -2.0]), jnp.asarray([1.0, 0.0, 0.0]), dtypes=("float64",))
    check_vjp(lambda x: lax.atan2_p.bind(x, jnp.float64(0.3)), jnp.asarray([0.5, -1.5]), dtypes=("float64",))


def test_choices_select():
    """An infinite derivative on the way back meets no zero of a mask: 0, not NaN, for what was not chosen."""
    clipped = fb.grad(lambda x: jnp.arccos(jnp.clip(x, -1.0, 1.0)))
    assert clipped(1.5) == 0 and fb.grad(lambda x: jnp.sqrt(jnp.maximum(x, 0.0)))(-1.0) == 0
    assert (
        fb.grad(lambda x: jnp.sqrt(jax.nn.relu(x)))(-1.0) == 0 == fb.grad(lambda x: jnp.sqrt(-jnp.minimum(x, 0.0)))(2.0)
    )
    assert np.isnan(jax.grad(lambda x: jnp.sqrt(jnp.maximum(x, 0.0)))(-1.0))


@pytest.mark.parametrize("x, y", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (-1.0, -0.0)])
@pytest.mark.parametrize("name", ["div", "atan2"])
def test_div_and_atan2_vjp_edges(name, x, y):
    ours, theirs = (transform(getattr(lax, name), x, y)[1](jnp.float64(1)) for transform in (fb.vjp, jax.vjp))
    assert_close(ours, theirs, 1e-14)


def test_nextafter_vjp():
    """∂z/∂x = 1, ∂z/∂y = 0; JAX 0.10.2 refuses. A step of one rounding cannot be differenced."""
    x, y = operands((3,), (3,))
    dz = random_like(x)
    assert_close(fb.vjp(lax.nextafter, x, y)[1](dz), (dz, jnp.zeros(3)), 0)


# ---------------------------------------------------------------- choices


TIES = [(1.0, 1.0), (0.0, -0.0), (math.inf, math.inf), (math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)]


@pytest.mark.parametrize("name", ["max", "min"])
def test_max_and_min_vjp_ties(name):
    """A tie shares the cotangent; NaN gets none, as in JAX."""
    x, y = (jnp.asarray(column) for column in zip(*TIES, strict=True))
    for dtype in ALL:
        args = x.astype(dtype), y.astype(dtype)
        dz = random_like(args[0])
        ours, theirs = (transform(getattr(lax, name), *args)[1](dz) for transform in (fb.vjp, jax.vjp))
        assert_close(ours, theirs, 0)


@pytest.mark.parametrize("name", ["max", "min"])
def test_max_and_min_vjp_of_what_is_not_finite(name):
    """Beside a NaN, a cotangent of NaN stays one, so that it is seen; else an operand that loses gets zero."""
    for dtype in ALL:
        a, b, nan = (jnp.asarray(x, dtype) for x in ([1.0, 2.0], [3.0, -1.0], math.nan))
        for x, y in ((a * nan, b), (a, b * nan)):
            ours, theirs = (transform(getattr(lax, name), x, y)[1](b * nan) for transform in (fb.vjp, jax.vjp))
            assert np.isnan(ours).all() and np.isnan(theirs).all()
            assert not np.any(fb.vjp(getattr(lax, name), x, y)[1](b))
        for dz in (b * nan, b * math.inf):
            assert np.sum(np.asarray(fb.vjp(getattr(lax, name), a, b)[1](dz)) == 0) == 2


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_celu_vjp_of_nan(transform):
    assert np.isnan(transform(fb.grad(lambda x: jax.nn.celu(x).sum()))(jnp.asarray([[math.nan]]))).all()


@pytest.mark.parametrize("name", ["max", "min"])
def test_max_and_min_vjp_complex(name):
    """Lexicographic order, which JAX 0.12 cannot differentiate: the real part decides, then the imaginary."""
    x = jnp.asarray([1 + 1j, 2 + 0j, 1 + 1j, 1 + 3j, 0 + 9j])
    y = jnp.asarray([1 + 2j, 1 + 5j, 1 + 1j, 1 + 2j, 1 + 0j])
    first = np.array([0, 1, 0.5, 1, 0]) if name == "max" else np.array([1, 0, 0.5, 0, 1])
    dz = random_like(x)
    assert_close(fb.vjp(getattr(lax, name), x, y)[1](dz), (dz * first.astype(complex), dz * (1 - first + 0j)), 0)


def test_max_vjp_compares_operands_with_each_other():
    """No equation of the backward pass reads the maximum itself."""
    _, pullback = fb.vjp(lambda x: lax.max(lax.sin(x), x), 2.0)
    residuals = [float(leaf) for leaf in jax.tree.leaves(pullback)]
    assert residuals.count(2.0) == 2 or math.sin(2.0) in residuals  # sin's operand, and max's two
    jaxpr = str(jax.make_jaxpr(lambda x, y: fb.vjp(lax.max, x, y)[1](1.0))(1.0, 2.0))
    maximum = next(line.split(":")[0].strip() for line in jaxpr.splitlines() if "= max " in line)
    assert not [line for line in jaxpr.splitlines() if f" {maximum} " in line.partition("=")[2]]


CLAMP_SHAPES = [((), (4,), ()), ((4,), (4,), (4,)), ((), (4,), (4,)), ((), (), ()), ((0,), (0,), (0,))]


@pytest.mark.parametrize("shapes", CLAMP_SHAPES, ids=str)
def test_clamp_vjp(shapes):
    """With respect to scalar bounds as well, which JAX refuses."""
    low, x, high = (jnp.full(shapes[0], -0.7), *operands(shapes[1]), jnp.full(shapes[2], 0.6))
    if shapes[0] == shapes[1] == shapes[2]:
        # JAX cannot batch a bound of a rank-0 operand.
        check_vjp(lax.clamp, low, x, high, dtypes=ALL, batched=x.ndim > 0)
    check_vjp(lambda x: lax.clamp(low.astype(x.dtype), x, high.astype(x.dtype)), x, dtypes=("float64",))
    if x.size:
        check_numeric(lax.clamp, low, x, high)


CLAMP_EDGES = {  # low, x, high: the cotangents of each for dz = 1
    "on the lower bound": ((0.0, 0.0, 1.0), (0, 0, 0)),
    "on the upper bound": ((0.0, 1.0, 1.0), (0, 0, 0)),
    "equal bounds, below": ((1.0, 0.0, 1.0), (0, 0, 0)),
    "equal bounds, above": ((1.0, 2.0, 1.0), (0, 0, 1)),
    "crossed bounds": ((1.0, 0.5, 0.0), (0, 0, 1)),
    "crossed bounds, below both": ((1.0, -5.0, 0.0), (0, 0, 1)),  # the value is high; JAX gives none a cotangent
    "crossed bounds, above both": ((1.0, 5.0, 0.0), (0, 0, 1)),
    "NaN": ((0.0, math.nan, 1.0), (0, 0, 0)),
}


@pytest.mark.parametrize("case", CLAMP_EDGES)
def test_clamp_vjp_edges(case):
    values, want = CLAMP_EDGES[case]
    args = [jnp.float64(v) for v in values]
    got = fb.vjp(lax.clamp, *args)[1](jnp.float64(1))
    assert_close(got, tuple(jnp.float64(v) for v in want), 0)
    if case != "crossed bounds, below both":
        assert_close(got, jax.vjp(lax.clamp, *args)[1](jnp.float64(1)), 0)


SELECTORS = {  # which, number of cases
    "boolean": (np.array([True, False, True, True]), 2),
    "boolean scalar": (np.bool_(True), 2),
    "integer": (np.array([3, 0, 2, 0], np.int32), 4),
    "integer scalar": (np.int32(1), 3),
    "one case": (np.array([0, 0, 0, 0], np.int32), 1),
}


@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("case", SELECTORS)
def test_select_n_vjp(case, complex_):
    which, count = SELECTORS[case]
    cases = operands(*[(4,)] * count, complex_=complex_)
    dtypes = ("float64",) if complex_ else ALL
    check_vjp(lax.select_n, which, *cases, dtypes=dtypes, batched=not complex_)
    check_vjp(lambda x, y: lax.select_n(which, *[x, y, x, y][:count]), cases[0], cases[-1], dtypes=("float64",))


def test_select_n_vjp_of_infinite_branch():
    """The untaken branch's infinite derivative meets a zero cotangent: NaN, as the chain rule and JAX have it."""

    def fun(x):
        return lax.select(x > 0, lax.sqrt(x), x)

    x = jnp.asarray([4.0, 0.0, -1.0])
    ours, theirs = (transform(fun, x)[1](jnp.ones(3)) for transform in (fb.vjp, jax.vjp))
    assert_close(ours, theirs, 1e-14)
    assert np.isnan(ours[0][1])


def test_rank_0_operands_in_a_jaxpr():
    """`x * s` traces to an operand of rank 3 beside one of rank 0, for every operation."""
    x, s = operands((2, 1, 3), ())

    def fun(x, s):
        return (x * s + s - x / (s + 3.0)) ** 2 + jnp.maximum(x, s) + jnp.where(x > s, x, s)

    check_vjp(fun, x, s)
