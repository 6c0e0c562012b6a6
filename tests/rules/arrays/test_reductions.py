import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop import registry

from ..checking import assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")

# shape, reduced axes
LAYOUTS = {
    "rows": ((3, 4), (0,)),
    "columns": ((3, 4), (1,)),
    "all": ((3, 4), (0, 1)),
    "middle": ((2, 3, 4), (1,)),
    "outer": ((2, 3, 4), (0, 2)),
    "none": ((3,), ()),
    "scalar": ((), ()),
    "size 1": ((3, 1), (1,)),
    "empty result": ((0, 3), (1,)),
    "empty sum": ((3, 0), (1,)),
}
REDUCTIONS = {"sum": lax.reduce_sum, "max": lax.reduce_max, "min": lax.reduce_min, "prod": lax.reduce_prod}


def array(*shape, dtype="float64", seed=3):
    return random_like(np.zeros(shape, dtype), seed)


def check_reduction(name, shape, axes, dtypes, **options):
    def fun(x):
        return lax.square(REDUCTIONS[name](x, axes=axes))

    check_vjp(fun, array(*shape, **options), dtypes=dtypes)


@pytest.mark.parametrize("case", LAYOUTS)
def test_reduce_sum_vjp(case):
    check_reduction("sum", *LAYOUTS[case], ("float64", "bfloat16"))


@pytest.mark.parametrize("case", [c for c in LAYOUTS if c != "empty sum"])
def test_reduce_max_vjp(case):
    check_reduction("max", *LAYOUTS[case], ("float64", "bfloat16"))


@pytest.mark.parametrize("case", [c for c in LAYOUTS if c != "empty sum"])
def test_reduce_min_vjp(case):
    check_reduction("min", *LAYOUTS[case], ("float64", "bfloat16"))


@pytest.mark.parametrize("case", LAYOUTS)
def test_reduce_prod_vjp(case):
    check_reduction("prod", *LAYOUTS[case], ("float64", "float32"))


@pytest.mark.parametrize("name", ["sum", "max", "min", "prod"])
def test_complex(name):
    check_reduction(name, (3, 4), (1,), ("float64", "float32"), dtype="complex128")


@pytest.mark.parametrize("name", ["sum", "max", "min"])
def test_float16(name):
    check_reduction(name, (3, 4), (0,), ("float16",))


@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_share_equally(name):
    x = jnp.array([[1.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0], [-0.0, 0.0, -jnp.inf, jnp.inf]])
    check_vjp(lambda x: REDUCTIONS[name](x, axes=(1,)), x, batched=False)
    check_vjp(lambda x: REDUCTIONS[name](x, axes=(0, 1)), x, batched=False)


@pytest.mark.parametrize("name", ["max", "min"])
def test_nan_spoils_its_row_alone(name):
    x = jnp.array([[1.0, jnp.nan, 2.0], [1.0, 3.0, 2.0]])
    check_vjp(lambda x: REDUCTIONS[name](x, axes=(1,)), x, order=1, batched=False)


def test_extremes_are_never_compared_with_the_output():
    """The rule neither saves nor reads its output: a fused kernel may round it differently from x."""
    for name in ("reduce_max", "reduce_min"):
        rule = registry.registered()[name].rule_for(0)
        assert "y" not in rule.reads


def test_reduce_max_vjp_of_a_fused_operand():
    """Each row's shares add up to its cotangent, with x recomputed from a product and a sum in low precision."""

    def loss(a, b):
        return jnp.sum(jnp.max(lax.mul(a, b) + b, axis=1) * jnp.arange(1, 65, dtype=a.dtype))

    for dtype in ("bfloat16", "float32"):
        a, b = array(64, 96, dtype=dtype), array(64, 96, dtype=dtype, seed=4)
        db = jax.jit(fb.grad(loss))(a, lax.full_like(b, 1))
        assert_close(db.sum(1), jnp.arange(1, 65, dtype=dtype), 1e-6)


EXTREMES = {
    "max of columns": lambda y: jnp.max(y, axis=0),
    "min of a transpose": lambda y: jnp.min(y.T, axis=0),
    "pmin under vmap": jax.vmap(lambda y: lax.pmin(y, "i"), axis_name="i"),
    "scatter-max": lambda y: jax.ops.segment_max(y.T, np.arange(65) % 3, 3),
}


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("name", EXTREMES)
def test_winners_are_kept_where_the_compiler_computes_the_operand_again(name, level):
    """In one kernel with a fused multiply-add, in another without: JAX's own gradient is NaN, or 20 % off."""

    def loss(x):
        y = (x - jnp.mean(x, 0, keepdims=True)) / jnp.sqrt(jnp.var(x, 0, keepdims=True) + 1e-3) * x[:1] + x[1:2]
        return jnp.sum(EXTREMES[name](y) ** 2)

    x = array(2, 33, 65, dtype="float32")
    exact = jax.jit(jax.vmap(fb.grad(loss)))(x.astype("float64")).astype("float32")
    for gradient, operand, expected in ((fb.grad(loss), x[0], exact[0]), (jax.vmap(fb.grad(loss)), x, exact)):
        lowered = jax.jit(gradient).lower(operand)
        compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": level})
        assert_close(compiled(operand), expected, 1e-4)


PRODUCTS = {
    "no zero": [3.0, -2.0, 0.5, 4.0],
    "one zero": [3.0, 0.0, 0.5, 4.0],
    "two zeros": [0.0, 2.0, 0.0, 4.0],
    "zero at the end": [1.5, 2.0, 3.0, 0.0],
    "infinity": [1.5, jnp.inf, 3.0, 1.0],
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_reduce_prod_vjp_zeros(case):
    x = jnp.array(PRODUCTS[case])
    if case == "infinity":
        return check_vjp(jnp.prod, x, order=1, batched=False)
    check_vjp(jnp.prod, x)
    want = jnp.array([[np.prod(np.delete(x, [i, j])) * (i != j) for j in range(4)] for i in range(4)])
    assert_close(fb.hessian(jnp.prod)(x), want, 1e-12)


def test_reduce_prod_vjp_of_a_tiny_denormal():
    """No division by x: an element of 1e-320 has an exact gradient."""
    got = fb.grad(jnp.prod)(jnp.array([1e-320, 2.0, 3.0]))
    assert float(got[0]) == 6.0


@pytest.mark.parametrize("reduce", [jnp.sum, jnp.max, jnp.prod])
def test_explicit_sharding(reduce):
    """The cotangent is sharded as its operand. JAX's own product refuses this, so the answer is an unsharded one."""
    x = array(4, 6)
    want = jax.grad(lambda x: jnp.sum(reduce(x, axis=1) ** 2))(x)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(x, jax.NamedSharding(mesh, jax.P("d", None)))
        got = jax.jit(fb.grad(lambda x: jnp.sum(reduce(x, axis=1) ** 2)))(x)
        assert got.sharding.is_equivalent_to(x.sharding, 2)
    assert_close(got, want, 1e-12)


def test_a_wrong_rule_is_found(plant):
    plant("reduce_max")

    @fb.vjp_rule("reduce_max", "x -> y")
    def first_winner_takes_all(dy, x, *, axes):
        return lax.broadcast_in_dim(dy, x.shape, (0,)) * (x == x.max(1, keepdims=True)).astype(x.dtype)

    with pytest.raises(AssertionError, match="vjp"):
        check_vjp(lambda x: lax.reduce_max(x, axes=(1,)), jnp.ones((2, 3)))
