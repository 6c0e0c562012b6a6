"""Every scatter: in all modes, with duplicate, unsorted and out-of-range indices, windows and batching dimensions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fnbackprop as fb

from ..checking import assert_close, check_numeric, check_vjp, random_like
from .gather_cases import gather_cases, generated

pytestmark = pytest.mark.usefixtures("x64")

REPEATED = jnp.array([3, 1, 3, 9, -9, 0, 3])  # clipped, 9 meets no other, -9 meets 0
DISTINCT = jnp.array([3, 1, 2, 9, -9, 0])
MODES = ["clip", "drop"]
SCATTERS = {
    "set": lax.scatter,
    "add": lax.scatter_add,
    "sub": lax.scatter_sub,
    "mul": lax.scatter_mul,
    "min": lax.scatter_min,
    "max": lax.scatter_max,
}
METHODS = ["set", "add", "subtract", "mul", "divide", "min", "max"]


def normal(*shape, dtype="float64", seed=0):
    return random_like(np.zeros(shape, dtype), seed)


def at(method, i, **options):
    return lambda x, u: getattr(x.at[i], method)(u, **options)


def pulled(transform, fun, *args, seed=1):
    """The pullback of a random cotangent, jitted."""

    def pull(*xs):
        y, pullback = transform(fun, *xs)
        return pullback(random_like(y, seed))

    return jax.jit(pull)(*args)


check_jitted = functools.partial(check_vjp)
check_differences = functools.partial(check_numeric)


def check_second_differences(fun, *args):
    """The second order against differences of our own first order."""

    def first(*xs):
        return pulled(fb.vjp, fun, *xs)

    check_differences(first, *args)


# ---------------------------------------------------------------- all scatters


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["set", "add", "subtract"])
def test_scatter_vjp(method, mode):
    check_jitted(at(method, REPEATED, mode=mode), normal(5, 2), normal(7, 2, seed=1), dtypes=("float64",))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_scatter_vjp_by_differences(method, mode):
    """jax.grad refuses mul and divide at repeated indices, and (0.10.2) is wrong for min and max of clipped ones."""
    check_differences(at(method, REPEATED, mode=mode), normal(5, 2), normal(7, 2, seed=1))


@pytest.mark.parametrize("method", ["mul", "min", "max"])
def test_scatter_vjp_of_distinct_indices(method):
    fun = at(method, DISTINCT, mode="drop", unique_indices=True)
    check_jitted(fun, normal(5, 2), normal(6, 2, seed=1), dtypes=("float64",))


DTYPES = [(method, dtype) for method in METHODS for dtype in ("bfloat16", "float32")]
DTYPES += [(method, dtype) for method in METHODS[:-2] for dtype in ("complex64", "complex128")]


@pytest.mark.parametrize(("method", "dtype"), DTYPES)
def test_scatter_vjp_of_dtypes(method, dtype):
    x, u = normal(5, 2, dtype=dtype), normal(6, 2, dtype=dtype, seed=1)
    fun = at(method, DISTINCT, mode="drop", unique_indices=True)
    tolerance = 1e-2 if dtype == "bfloat16" else 1e-5
    assert_close(pulled(fb.vjp, fun, x, u), pulled(jax.vjp, fun, x, u), tolerance, dtype)


@pytest.mark.parametrize("name", SCATTERS)
@generated(10)
@given(case=gather_cases())
def test_scatter_vjp_of_generated_dimensions(name, case):
    assume(case.starts.shape[-1])  # JAX 0.10.2 folds a scatter at constant empty starts to its last update
    x, u = normal(*case.shape), normal(*case.update_shape, seed=1)
    check_differences(lambda x, u: case.scatter(SCATTERS[name], x, u), x, u, directions=1)


@pytest.mark.parametrize("name", ["set", "add"])
@generated(10)
@given(case=gather_cases())
def test_scatter_vjp_of_generated_dimensions_against_jax(name, case):
    x, u = normal(*case.shape), normal(*case.update_shape, seed=1)

    def fun(x, u):
        return case.scatter(SCATTERS[name], x, u)

    assert_close(pulled(fb.vjp, fun, x, u), pulled(jax.vjp, fun, x, u), 1e-13)


FORMS = [2, slice(1, 3), (slice(None), 0), (slice(1, None), jnp.array([1, 0])), jnp.zeros(0, int)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("i", FORMS)
def test_scatter_vjp_of_forms(method, i):
    x = normal(5, 2)
    u = normal(*x[i].shape, seed=1)
    check_jitted(at(method, i, unique_indices=True), x, u, dtypes=("float64",), order=1, batched=False)


@pytest.mark.parametrize("method", METHODS)
def test_scatter_vjp_of_nothing(method):
    check_jitted(at(method, jnp.array([0, 1]), unique_indices=True), normal(3, 0), normal(2, 0), dtypes=("float64",))


@pytest.mark.parametrize("method", METHODS)
def test_scatter_vjp_with_a_batch_of_different_indices(method):
    x, u, i = normal(3, 5), normal(3, 4, seed=1), jnp.array([[0, 0, 9, 1], [-9, 2, 2, 2], [4, 3, 4, 4]])

    def fun(x, u):
        return jax.vmap(lambda x, u, i: at(method, i, mode="drop")(x, u))(x, u, i)

    check_differences(fun, x, u)
    want = [pulled(fb.vjp, at(method, i[k], mode="drop"), x[k], u[k], seed=0) for k in range(3)]
    got = jax.vmap(lambda x, u, i: pulled(fb.vjp, at(method, i, mode="drop"), x, u, seed=0))(x, u, i)
    assert_close(list(got), [jnp.stack(rows) for rows in zip(*want, strict=True)], 1e-13)


# ---------------------------------------------------------------- set


def test_scatter_vjp_saves_only_the_indices():
    x, u = normal(5, 2), normal(7, 2)
    _, pullback = fb.vjp(at("set", REPEATED), x, u)
    assert {leaf.dtype.kind for leaf in jax.tree.leaves(pullback)} == {"i"}


def test_scatter_vjp_of_overlapping_windows():
    """Windows of three rows at 1, 2, 4 and 2: each row goes to the last that wrote it."""
    starts = jnp.array([[1], [2], [4], [2]])
    dimensions = lax.ScatterDimensionNumbers((1, 2), (), (0,))
    operands = normal(6, 2), normal(4, 3, 2, seed=1)
    check_jitted(lambda x, u: lax.scatter(x, starts, u, dimensions, mode="clip"), *operands, dtypes=("float64",))


def test_scatter_vjp_on_an_explicit_mesh():
    """The cotangents keep the columns' sharding, and their values."""
    x, u = normal(5, 8), normal(7, 8, seed=1)

    @jax.jit
    def gradients(x, u):
        y, pullback = fb.vjp(at("set", REPEATED), x, u)
        return pullback(y * y)

    want = gradients(x, u)
    mesh = jax.make_mesh((4,), ("columns",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        x, u = (jax.device_put(a, NamedSharding(mesh, PartitionSpec(None, "columns"))) for a in (x, u))
        got = gradients(x, u)
        assert [dx.sharding.spec for dx in got] == [x.sharding.spec, u.sharding.spec]
    assert_close(jax.device_get(got), jax.device_get(want), 1e-14)


# ---------------------------------------------------------------- mul


@pytest.mark.parametrize("zeros", [[0], [0, 2, 6]])
def test_scatter_mul_vjp_with_zeros(zeros):
    """Each update's cotangent is the product of the others, be they zero or not."""
    u = normal(7, 2, seed=1).at[jnp.array(zeros)].set(0)
    for mode in MODES:
        check_differences(at("mul", REPEATED, mode=mode), normal(5, 2), u)
    check_second_differences(at("mul", REPEATED, mode="drop"), normal(5, 2), u)


def test_scatter_mul_vjp_leaves_dropped_infinities_out():
    u = normal(7, 2, seed=1).at[3].set(jnp.inf)
    _, du = pulled(fb.vjp, at("mul", REPEATED, mode="drop"), normal(5, 2), u)
    assert np.all(np.isfinite(du)) and not np.any(du[3])


@pytest.mark.parametrize("dtype", ["complex128", "float32", "bfloat16"])
def test_scatter_mul_vjp_of_repeated_indices(dtype):
    """Against JAX's VJP of the product written out."""
    i = [3, 1, 3, 0, 3]
    x, u = normal(5, dtype=dtype), normal(5, dtype=dtype, seed=1)

    def written_out(x, u):
        x, u = lax.convert_element_type((x, u)[0], "complex128"), lax.convert_element_type(u, "complex128")
        for k, j in enumerate(i):
            x = x.at[j].mul(u[k], unique_indices=True)
        return lax.convert_element_type(x if dtype == "complex128" else lax.real(x), dtype)

    tolerance = {"complex128": 1e-13, "float32": 1e-6, "bfloat16": 2e-2}[dtype]
    fun = at("mul", jnp.array(i))
    assert_close(pulled(fb.vjp, fun, x, u), pulled(jax.vjp, written_out, x, u), tolerance)


# ---------------------------------------------------------------- min, max


@pytest.mark.parametrize("method", ["min", "max"])
def test_scatter_max_vjp_shares_ties(method):
    sign = 1.0 if method == "max" else -1.0
    x = sign * jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    u = sign * jnp.array([2.0, 2.0, 7.0, 7.0, 4.0, 0.0])
    i = jnp.array([1, 1, 2, 2, 3, 4])
    check_jitted(at(method, i), x, u, dtypes=("float64", "bfloat16"), batched=False)
    dx, du = fb.vjp(at(method, i), x, u)[1](jnp.ones(5))
    assert_close((dx, du), (jnp.array([1, 1 / 3, 0, 0.5, 1]), jnp.array([1 / 3, 1 / 3, 0.5, 0.5, 0.5, 0])), 1e-14)


@pytest.mark.parametrize("method", ["min", "max"])
def test_scatter_max_vjp_beside_a_nan(method):
    x, u = normal(5), normal(4, seed=1).at[1].set(jnp.nan)
    check_jitted(at(method, jnp.array([0, 2, 0, 3])), x, u, order=1, batched=False)


# ---------------------------------------------------------------- apply, which jax.grad refuses


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("i", [DISTINCT, REPEATED, jnp.array(2), jnp.zeros(0, int)])
def test_scatter_apply_vjp(i, mode):
    check_differences(lambda x: x.at[i].apply(jnp.sin, mode=mode), normal(5, 2))


def test_scatter_apply_vjp_of_distinct_indices_twice():
    i = jnp.array([1, 4, 2])
    check_second_differences(lambda x: x.at[i].apply(jnp.sin, unique_indices=True), normal(5, 2))


def test_scatter_apply_vjp_is_not_asked_elsewhere():
    """sqrt has an infinite derivative at the zero that is not touched."""
    dx = fb.grad(lambda x: jnp.sum(x.at[1].apply(jnp.sqrt)))(jnp.array([0.0, 4.0]))
    assert_close(dx, jnp.array([1.0, 0.25]), 1e-14)


def test_scatter_apply_vjp_of_a_constant():
    dx = fb.grad(lambda x: jnp.sum(x.at[jnp.array([1, 1])].apply(lambda a: lax.full_like(a, 3))))(jnp.arange(3.0))
    assert_close(dx, jnp.array([1.0, 0.0, 1.0]), 1e-14)


def test_scatter_apply_vjp_of_complex():
    x = normal(4, dtype="complex128")
    dy = normal(4, dtype="complex128", seed=1)
    (dx,) = fb.vjp(lambda x: x.at[jnp.array([1, 3, 1])].apply(jnp.exp), x)[1](dy)
    once = jnp.exp(x)
    slope = jnp.stack([jnp.ones_like(x[0]), jnp.exp(once[1]) * once[1], jnp.ones_like(x[2]), once[3]])
    assert_close(dx, dy * slope, 1e-13)
