import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.jaxprs.avals import explicit_sharding
from fnbackprop.rules.arrays.layouts import reshape_like, spread, sum_over, vary_alike, wide

from ..checking import assert_close, random_like

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
    + [("complex64", "complex64"), ("complex128", "complex128")],
)
def test_wide(dtype, expected):
    x = random_like(np.zeros(3, dtype))
    assert_close(wide(x), x.astype(expected), 0)


def test_sum_over_rounds_once():
    x = random_like(np.zeros((2, 5000), "bfloat16")) + jnp.asarray(1, "bfloat16")
    assert_close(sum_over(x, (1,)).astype("float64"), x.astype("float64").sum(1), 2.0**-8)
    assert sum_over(x, ()) is x


def test_spread_repeats_along_the_reduced_axes():
    x = random_like(np.zeros((2, 4)))
    assert_close(spread(x, jax.typeof(jnp.zeros((2, 3, 4))), (1,)), jnp.stack([x] * 3, 1), 0)


def test_explicit_sharding_is_none_without_an_explicit_mesh():
    assert explicit_sharding(jax.typeof(jnp.zeros(4))) is None
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.zeros((4, 3)), jax.NamedSharding(mesh, jax.P("d")))
        assert explicit_sharding(jax.typeof(x)).spec == jax.P("d", None)
        assert jax.typeof(reshape_like(jnp.zeros(12), jax.typeof(x))) == jax.typeof(x)


def test_vary_alike():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    def fun(x, y):
        types = [jax.typeof(a).manual_axis_type.varying for a in vary_alike([x, y])]
        assert types == [frozenset({"d"})] * 2
        return x

    jax.shard_map(fun, mesh=mesh, in_specs=(jax.P("d"), jax.P()), out_specs=jax.P("d"))(jnp.zeros(2), jnp.zeros(()))
