"""sort, top_k and approx_top_k along any axis, of several operands and keys, with ties and NaNs."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fnbackprop as fb

from ..checking import assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")
check_jitted = functools.partial(check_vjp, dtypes=("float64",))


def normal(*shape, dtype="float64", seed=0):
    return random_like(np.zeros(shape, dtype), seed)


def rounded(*shape, seed=0):
    """Numbers with many ties."""
    return jnp.asarray(np.random.default_rng(seed).integers(-1, 2, shape), "float64")


# ---------------------------------------------------------------- sort


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("stable", [True, False])
def test_sort_vjp(axis, stable):
    check_jitted(lambda x: lax.sort(x, axis, is_stable=stable), normal(3, 4, 2))


@pytest.mark.parametrize("num_keys", [1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_sort_vjp_of_several_operands(num_keys, axis):
    """Ties of the first key are broken by the next, and at last by position."""
    operands = rounded(3, 6), rounded(3, 6, seed=1), normal(3, 6)
    check_jitted(lambda *xs: lax.sort(xs, axis, num_keys=num_keys), *operands, batched=num_keys == 2)


def test_sort_vjp_of_integer_keys_and_complex_passengers():
    keys = jnp.array([3, 1, 3, 2, 1])

    def fun(a, b):
        _, c, d = lax.sort((keys, a, b), num_keys=1)
        return c * c, d

    check_jitted(fun, normal(5, dtype="complex128"), normal(5, seed=1))


def test_sort_vjp_of_complex_keys():
    check_jitted(lax.sort, normal(6, dtype="complex128"))


def test_sort_vjp_where_one_output_is_used():
    check_jitted(lambda a, b: lax.sort((a, b))[1], normal(5), normal(5, seed=1))
    check_jitted(lambda a, b: lax.sort((a, b))[0], normal(5), normal(5, seed=1))


def test_sort_vjp_with_nans_infinities_and_signed_zeros():
    x = jnp.array([jnp.nan, 1.0, -jnp.inf, 0.0, -0.0, jnp.inf, jnp.nan, 0.0, -1.0])
    check_jitted(lambda x, b: lax.sort((x, b)), x, normal(9), batched=False)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0), (0, 3)])
def test_sort_vjp_of_nothing(shape):
    check_jitted(lambda x: lax.sort(x, 0), normal(*shape))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
def test_sort_vjp_of_dtypes(dtype):
    x, dy = normal(7, dtype=dtype), normal(7, dtype=dtype, seed=1)
    assert_close(fb.vjp(lax.sort, x)[1](dy), jax.vjp(lax.sort, x)[1](dy), 0)


FORMS = {
    "descending": lambda x: jnp.sort(x, descending=True),
    "gathered": lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=0), 0),
    "median": lambda x: jnp.median(x, axis=0),
    "cumulated": lambda x: jnp.cumsum(jnp.sort(x * x, axis=0), axis=0),
}


@pytest.mark.parametrize("name", FORMS)
def test_sort_vjp_of_forms(name):
    check_jitted(FORMS[name], normal(5, 3))


def test_sort_vjp_on_an_explicit_mesh():
    x, dy = normal(8, 5), normal(8, 5, seed=1)
    want = fb.vjp(lax.sort, x)[1](dy)
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        x, dy = (jax.device_put(a, NamedSharding(mesh, PartitionSpec("rows", None))) for a in (x, dy))
        got = jax.jit(lambda x, dy: fb.vjp(lax.sort, x)[1](dy))(x, dy)
        assert got[0].sharding.spec == x.sharding.spec
    assert_close(jax.device_get(got), jax.device_get(want), 0)


def test_sort_vjp_keeps_only_the_permutation():
    _, pullback = fb.vjp(lambda *xs: lax.sort(xs, num_keys=2), normal(5), normal(5), normal(5))
    assert [leaf.dtype for leaf in jax.tree.leaves(pullback)] == [np.int32]


SORTS = {
    "sort": jnp.sort,
    "several": lambda x: lax.sort((x, x * x, x + 1), num_keys=2)[1],
    "median": lambda x: x * jnp.median(x),
    "order": lambda x: x[jnp.argsort(-x)] * x,
    "batched": lambda x: jax.vmap(jnp.sort)(x.reshape(2, 3)).ravel(),
}


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("name", SORTS)
def test_gradients_of_gradients_of_sorts_on_devices(name, checked):
    """JAX's gradient of a sort in `shard_map` sorts an iota along, of which it says only afterwards that it varies."""

    def on_device(x):
        x = (lax.pcast(x, "x", to="varying") if checked else x) * (1 - 3 * lax.axis_index("x")).astype(x.dtype)
        return lax.pmean(SORTS[name](x), "x")

    mesh, P = jax.make_mesh((2,), ("x",)), PartitionSpec
    region = jax.shard_map(on_device, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=checked)
    x, ct = normal(6), normal(6, seed=1)

    def second(outer, inner):
        gradient = inner.grad(lambda x: jnp.sum(jnp.sin(region(x))))
        return jax.jit(lambda x: outer.vjp(gradient, x)[1](ct))(x)

    for libs in ((fb, jax), (fb, fb), (jax, fb)):
        assert_close(second(*libs), second(jax, jax), 1e-12)


# ---------------------------------------------------------------- top_k

STABLE = [{}, {"is_stable": False}] if "is_stable" in inspect.signature(lax.top_k).parameters else [{}]


@pytest.mark.parametrize("options", STABLE)
@pytest.mark.parametrize(("k", "axis"), [(0, 0), (1, -1), (2, 0), (2, 1), (3, 0), (4, -1)])
def test_top_k_vjp(k, axis, options):
    check_jitted(lambda x: lax.top_k(x, k, axis=axis, **options), normal(3, 4))


def test_top_k_vjp_of_ties_and_nans():
    x = jnp.array([[1.0, 2.0, 2.0, 2.0, jnp.nan], [0.0, -0.0, 0.0, -1.0, -jnp.inf]])
    check_jitted(lambda x: lax.top_k(x, 3)[0], x, batched=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_top_k_vjp_of_dtypes(dtype):
    x, dy = normal(3, 7, dtype=dtype), normal(3, 2, dtype=dtype, seed=1)

    def fun(x):
        return lax.top_k(x, 2)[0]

    assert_close(fb.vjp(fun, x)[1](dy), jax.vjp(fun, x)[1](dy), 0)


# ---------------------------------------------------------------- approx_top_k


@pytest.mark.parametrize("select", [lax.approx_max_k, lax.approx_min_k])
@pytest.mark.parametrize(("axis", "aggregate"), [(0, True), (-1, True), (1, False)])
def test_approx_top_k_vjp(select, axis, aggregate):
    check_jitted(lambda x: select(x, 2, reduction_dimension=axis, aggregate_to_topk=aggregate), normal(3, 6))
