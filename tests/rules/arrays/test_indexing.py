"""gather, dynamic_slice and dynamic_update_slice: the indexing forms, every mode, raw dimension numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop import registry

from ..checking import assert_close, check_vjp, random_like
from .gather_cases import gather_cases, generated

pytestmark = pytest.mark.usefixtures("x64")


def normal(*shape, dtype="float64", seed=0):
    return random_like(np.zeros(shape, dtype), seed)


def pulled(transform, fun, *args, seed=1):
    """The pullback of a random cotangent, jitted."""

    def pull(*xs):
        y, pullback = transform(fun, *xs)
        return pullback(random_like(y, seed))

    return jax.jit(pull)(*args)


def primitives(fun, *args):
    """The names of the equations that a function traces to."""
    return [equation.primitive.name for equation in jax.make_jaxpr(fun)(*args).eqns]


FORMS = {
    "element": lambda x: x[1, 2],
    "row": lambda x: x[1],
    "negative": lambda x: x[-1, -2],
    "rows": lambda x: x[jnp.array([2, 0, 2, 1])],
    "columns": lambda x: x[:, jnp.array([3, 3, 0])],
    "pairs": lambda x: x[jnp.array([0, 1, 0]), jnp.array([2, 1, 2])],
    "outer": lambda x: x[jnp.array([[0, 0], [2, 2]]), jnp.array([[1, 3], [1, 3]])],
    "new axis": lambda x: x[None, jnp.array([1, 1]), :, None],
    "strided": lambda x: x[::2, 1::2],
    "mask": lambda x: x[np.array([True, False, True])],
    "none": lambda x: x[jnp.zeros((0,), int)],
    "of nothing": lambda x: x[:, :0][jnp.array([0, 1])],
    "flat": lambda x: x.ravel()[jnp.array([11, 0, 11])],
    "take": lambda x: jnp.take(x, jnp.array([[0, 5], [3, 3]]), axis=1, mode="clip"),
    "along 0": lambda x: jnp.take_along_axis(x, jnp.array([[2, 0, 1, 1], [2, 2, 1, 0]]), 0),
    "along 1": lambda x: jnp.take_along_axis(x, jnp.array([[3, 3], [0, 1], [2, 2]]), 1),
    "vmapped": lambda x: jax.vmap(lambda row, i: row[i])(x, jnp.array([[3, 3], [0, 1], [2, 2]])),
    "vmapped slice": lambda x: jax.vmap(lambda row, s: lax.dynamic_slice(row, (s,), (2,)))(x, jnp.array([0, 2, 9])),
}


@pytest.mark.parametrize("name", FORMS)
def test_gather_vjp_of_forms(name):
    for dtype in ("bfloat16", "float32", "complex128"):
        x = normal(3, 4, dtype=dtype)
        tolerance = 1e-2 if dtype == "bfloat16" else 1e-6
        assert_close(pulled(fb.vjp, FORMS[name], x), pulled(jax.vjp, FORMS[name], x), tolerance, dtype)
    check_vjp(FORMS[name], normal(3, 4), dtypes=("float64",))


@pytest.mark.parametrize("mode", ["clip", "fill"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gather_vjp_out_of_range(mode, dtype):
    i = jnp.array([0, 4, 7, -1, -9, 4, 7])
    check_vjp(lambda x: x.at[i].get(mode=mode, fill_value=2.0), normal(5, 2, dtype=dtype), dtypes=("float64",))


@generated(60)
@given(case=gather_cases())
def test_gather_vjp_of_generated_dimensions(case):
    x = normal(*case.shape)
    assert_close(pulled(fb.vjp, case.gather, x), pulled(jax.vjp, case.gather, x), 1e-13)


@generated(15)
@given(case=gather_cases())
def test_gather_vjp_of_generated_dimensions_twice_and_batched(case):
    check_vjp(case.gather, normal(*case.shape), dtypes=("float64",))


@pytest.mark.parametrize("mode", ["clip", "fill"])
def test_gather_vjp_with_a_batch_of_different_indices(mode):
    x, i = normal(3, 5), jnp.array([[0, 0, 9], [-9, 2, 1], [4, 4, 4]])

    def gradient(transform):
        return jax.vmap(lambda x, i: pulled(transform, lambda x: x.at[i].get(mode=mode, fill_value=0), x))(x, i)

    assert_close(gradient(fb.vjp), gradient(jax.vjp), 1e-13)


def test_gather_vjp_is_one_scatter_add():
    x, i = normal(5, 2), jnp.array([3, 1, 3])
    _, pullback = fb.vjp(lambda x: x.at[i].get(mode="promise_in_bounds"), x)
    assert primitives(pullback, normal(3, 2)) == ["broadcast_in_dim", "scatter-add"]


def test_dynamic_slice_vjp_is_one_update():
    _, pullback = fb.vjp(lambda x: lax.dynamic_slice(x, (jnp.asarray(1),), (2,)), normal(5))
    assert primitives(pullback, normal(2)) == ["broadcast_in_dim", "dynamic_update_slice"]


@pytest.mark.parametrize(
    ("mode", "sizes", "starts", "unique", "is_sorted"),
    [
        ("fill", (1, 1), [[0, 1], [1, 0]], True, True),
        ("clip", (1, 1), [[8, 1], [9, 0]], False, False),  # clamped: [[4, 1], [4, 0]]
        ("fill", (2, 1), [[0, 1], [1, 1]], False, True),  # both windows hold [1, 1]
        ("clip", (2, 1), [[3, 1]], True, False),  # a single window
    ],
)
def test_gather_vjp_keeps_only_the_flags_that_stay_true(mode, sizes, starts, unique, is_sorted):
    dimensions = lax.GatherDimensionNumbers((1, 2), (), (0, 1))
    flags = {"unique_indices": True, "indices_are_sorted": True, "mode": mode}
    x, starts = normal(5, 3), jnp.array(starts)
    y, pullback = fb.vjp(lambda x: lax.gather(x, starts, dimensions, sizes, **flags), x)
    scatter = jax.make_jaxpr(pullback)(y).eqns[-1]
    assert (scatter.params["unique_indices"], scatter.params["indices_are_sorted"]) == (unique, is_sorted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gather_vjp_adds_up_in_float32(dtype):
    """2000 cotangents on 4 elements: one rounding of the sum, where JAX rounds at each addition."""
    i = jnp.asarray(np.random.default_rng(0).integers(0, 4, 2000))
    dy = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1, 2000), dtype)
    exact = np.zeros(4)
    np.add.at(exact, np.asarray(i), np.asarray(dy, np.float64))

    def error(transform):
        dx = transform(lambda x: x[i], normal(4, dtype=dtype))[1](dy)[0]
        assert dx.dtype == dtype
        return float(np.max(np.abs(np.asarray(dx, np.float64) - exact) / exact))

    assert error(fb.vjp) <= jnp.finfo(dtype).eps / 2
    assert error(jax.vjp) > 10 * error(fb.vjp)


STARTS = [0, 2, -1, -9, 9]


@pytest.mark.parametrize("start", STARTS)
def test_dynamic_slice_vjp(start):
    check_vjp(lambda x, s: lax.dynamic_slice(x, (s, 1), (2, 2)), normal(5, 3), jnp.asarray(start))


@pytest.mark.parametrize("start", STARTS)
def test_dynamic_update_slice_vjp(start):
    operands = normal(5, 3), normal(2, 2), jnp.asarray(start)
    check_vjp(lambda x, u, s: lax.dynamic_update_slice(x, u, (s, 1)), *operands)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_dynamic_slice_vjp_of_no_axes_and_of_nothing(shape):
    starts = [jnp.asarray(0)] * len(shape)
    check_vjp(lambda x: lax.dynamic_slice(x, starts, shape), normal(*shape), dtypes=("float64",))
    check_vjp(lambda x, u: lax.dynamic_update_slice(x, u, starts), normal(*shape), normal(*shape), dtypes=("float64",))


@pytest.mark.parametrize("dtype", ["bfloat16", "complex128", "complex64"])
def test_dynamic_update_slice_vjp_of_other_dtypes(dtype):
    x, u = normal(5, dtype=dtype), normal(2, dtype=dtype, seed=1)

    def fun(x, u):
        return lax.dynamic_slice(lax.dynamic_update_slice(x, u, (2,)), (1,), (2,))

    assert_close(pulled(fb.vjp, fun, x, u), pulled(jax.vjp, fun, x, u), 1e-6)


def test_dynamic_slices_with_a_batch_of_different_starts():
    x, u, s = normal(4, 5), normal(4, 2), jnp.array([0, 9, -9, 2])

    def gradients(transform):
        def one(x, u, s):
            def fun(x, u):
                return lax.dynamic_update_slice(x, u, (s,)), lax.dynamic_slice(x, (s,), (3,))

            pullback = transform(fun, x, u)[1]
            return pullback((x * x, x[:3]))

        return jax.vmap(one)(x, u, s)

    assert_close(gradients(fb.vjp), gradients(jax.vjp), 1e-13)


def test_a_wrong_gather_rule_is_found(plant):
    right = plant("gather")

    def wrong(dy, i, x_aval, *, dimension_numbers):
        return right.rules[0].call(
            dy, i, x_aval, dimension_numbers=dimension_numbers, slice_sizes=(1, 2), unique_indices=False,
            indices_are_sorted=False, mode="drop",
        )  # fmt: skip

    registry.vjp_rule("gather", "x, i -> y", wrt="x")(wrong)
    with pytest.raises(AssertionError, match="relative error"):
        check_vjp(lambda x: x.at[jnp.array([1, 9])].get(mode="clip"), normal(3, 2), order=1, batched=False)
