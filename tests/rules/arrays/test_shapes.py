import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.expressions import scalar

from ..checking import assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")


def array(*shape, dtype="float64", seed=3):
    return random_like(np.zeros(shape, dtype), seed)


def check_linear(fun, *args):
    """As `check_vjp`, and of its square, so that the second order goes through the rule's own operations."""
    check_vjp(fun, *args, order=1, batched=False)
    check_vjp(lambda *xs: jax.tree.map(lax.square, fun(*xs)), *args)


RESHAPE = {
    "rows": ((3, 4), (2, 6), None),
    "flat": ((3, 4), (12,), None),
    "scalar": ((1, 1), (), None),
    "from scalar": ((), (1, 1, 1), None),
    "empty": ((0, 4), (2, 0), None),
    "transposed": ((3, 4), (2, 6), (1, 0)),
    "rolled": ((2, 3, 4), (6, 4), (2, 0, 1)),
}


@pytest.mark.parametrize("case", RESHAPE)
def test_reshape_vjp(case):
    shape, sizes, order = RESHAPE[case]
    check_linear(lambda x: lax.reshape(x, sizes, order), array(*shape))


BROADCAST = {
    "new axes": ((3,), (2, 3, 4), (1,)),
    "size 1": ((3, 1), (3, 4), (0, 1)),
    "both": ((1, 3), (2, 4, 3), (1, 2)),
    "nothing": ((3, 4), (3, 4), (0, 1)),
    "size 1 kept": ((1,), (2, 1), (1,)),
    "scalar": ((), (2, 3), ()),
    "to empty": ((3, 1), (3, 0), (0, 1)),
    "new empty axis": ((3,), (0, 3), (1,)),
    "scalar to scalar": ((), (), ()),
}


@pytest.mark.parametrize("case", BROADCAST)
def test_broadcast_in_dim_vjp(case):
    shape, target, axes = BROADCAST[case]
    check_linear(lambda x: lax.broadcast_in_dim(x, target, axes), array(*shape))


@pytest.mark.parametrize("permutation", [(), (0,), (1, 0), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_transpose_vjp(permutation):
    check_linear(lambda x: lax.transpose(x, permutation), array(*(2, 3, 4)[: len(permutation)]))


@pytest.mark.parametrize(("shape", "axes"), [((1, 3, 1), (0, 2)), ((3, 1), (1,)), ((1,), (0,)), ((1, 0), (0,))])
def test_squeeze_vjp(shape, axes):
    check_linear(lambda x: lax.squeeze(x, axes), array(*shape))


@pytest.mark.parametrize(("shape", "axes"), [((3,), (0, 2)), ((), (0,)), ((2, 0), (1,)), ((3, 4), (-1, 0))])
def test_expand_dims_is_a_broadcast(shape, axes):
    check_linear(lambda x: lax.expand_dims(x, axes), array(*shape))


@pytest.mark.parametrize(("shape", "axes"), [((3, 4), (0,)), ((3, 4), (0, 1)), ((0, 2), (0,)), ((2,), ()), ((), ())])
def test_rev_vjp(shape, axes):
    check_linear(lambda x: lax.rev(x, axes), array(*shape))


PAD = {
    "edges": ((3, 4), ((1, 2, 0), (0, 3, 0))),
    "holes": ((3, 4), ((0, 0, 2), (1, 0, 1))),
    "crops": ((4, 5), ((-1, -1, 0), (-2, 0, 0))),
    "crops and holes": ((4, 5), ((-1, 2, 2), (3, -5, 1))),
    "crops into holes": ((3,), ((-1, -2, 2),)),
    "nothing left": ((3,), ((-2, -1, 0),)),
    "only padding left": ((3,), ((-4, 5, 0),)),
    "empty": ((0, 2), ((1, 2, 3), (0, 1, 0))),
    "one": ((1,), ((2, 1, 5),)),
    "scalar": ((), ()),
}


@pytest.mark.parametrize("case", PAD)
def test_pad_vjp(case):
    shape, config = PAD[case]
    check_linear(lambda x: lax.pad(x, scalar(0.5, x), config), array(*shape))
    if any(low > 0 or high > 0 or hole for low, high, hole in config):
        check_linear(lambda x, v: lax.pad(x, v, config), array(*shape), array())


def test_pad_vjp_v_does_not_cancel():
    """The padding's cotangent is right beside a cotangent of x that is 1e20 times larger."""
    ct = jnp.array([2.0, 1e20, 3.0, 1e20, 4.0])
    _, pullback = fb.vjp(lambda x, v: lax.pad(x, v, ((1, 1, 1),)), jnp.ones(2), jnp.asarray(0.5))
    assert_close(pullback(ct), (jnp.array([1e20, 1e20]), jnp.asarray(9.0)), 1e-15)


def test_pad_vjp_v_is_zero_where_nothing_is_padded():
    _, pullback = fb.vjp(lambda x, v: lax.pad(x, v, ((-1, -1, 0),)), jnp.ones(4), jnp.asarray(0.5))
    assert pullback(jnp.array([0.1, 0.7]))[1] == 0


CONCATENATE = {
    "rows": (((2, 3), (1, 3), (4, 3)), 0),
    "columns": (((2, 1), (2, 3)), 1),
    "empty piece": (((2, 0), (2, 3)), 1),
    "single": (((2,),), 0),
}


@pytest.mark.parametrize("case", CONCATENATE)
def test_concatenate_vjp(case):
    shapes, axis = CONCATENATE[case]
    check_linear(lambda *xs: lax.concatenate(xs, axis), *(array(*s, seed=i) for i, s in enumerate(shapes)))


def test_concatenate_vjp_of_one_operand_twice_and_of_a_constant():
    check_linear(lambda x: lax.concatenate([x, lax.full_like(x, 1), x], 0), array(2, 3))


@pytest.mark.parametrize(("sizes", "axis"), [((1, 2), 0), ((1, 0, 3), 1), ((3,), 0)])
def test_split_vjp(sizes, axis):
    check_linear(lambda x: lax.split(x, sizes, axis), array(3, 4))


def test_split_vjp_with_unused_pieces():
    check_linear(lambda x: lax.split(x, (1, 2, 1), 1)[1], array(3, 4))


SLICE = {
    "plain": ((5, 6), (1, 0), (4, 6), None),
    "strided": ((5, 7), (0, 1), (5, 6), (2, 3)),
    "rest after last": ((7,), (1,), (6,), (4,)),
    "nothing taken": ((5, 6), (2, 0), (2, 6), None),
    "nothing taken, strided": ((5,), (3,), (3,), (2,)),
    "empty": ((0, 3), (0, 1), (0, 3), (1, 2)),
    "one": ((1,), (0,), (1,), (3,)),
    "scalar": ((), (), (), None),
}


@pytest.mark.parametrize("case", SLICE)
def test_slice_vjp(case):
    shape, start, limit, strides = SLICE[case]
    check_linear(lambda x: lax.slice(x, start, limit, strides), array(*shape))


@pytest.mark.parametrize(
    ("shape", "reps"), [((3, 4), (2, 3)), ((3,), (1,)), ((2, 1), (1, 4)), ((0, 2), (3, 2)), ((2,), (0,)), ((), ())]
)
def test_tile_vjp(shape, reps):
    check_linear(lambda x: lax.tile(x, reps), array(*shape))


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 0), ((3, 4), 2), ((), 0), ((0, 2), 1)])
def test_stack_vjp(shape, axis):
    check_linear(lambda x, y: lax.stack([x, lax.full_like(x, 1), y], axis), array(*shape), array(*shape, seed=4))


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 0), ((3, 4), 1), ((2,), 0), ((1, 0), 0)])
def test_unstack_vjp(shape, axis):
    check_linear(lambda x: lax.unstack(x, axis), array(*shape))


def everything(x, v):
    """Every primitive of the file, in one function of a (3, 4) array and a scalar."""
    x = lax.pad(lax.rev(x, (0,)), v, ((1, -1, 1), (0, 1, 0)))  # (5, 5)
    a, b = lax.split(lax.transpose(x, (1, 0)), (2, 3), 1)  # (5, 2), (5, 3)
    x = lax.concatenate([b, lax.slice(a, (0, 1), (5, 2))], 1)  # (5, 4)
    x = lax.stack(lax.unstack(lax.tile(x, (1, 2)), 1)[1:3], 0)  # (2, 5)
    x = lax.broadcast_in_dim(lax.expand_dims(x, (1,)), (3, 2, 4, 5), (1, 2, 3))
    return lax.squeeze(lax.reshape(x, (6, 4, 1, 5)), (2,))


@pytest.mark.parametrize("dtype", ["complex128", "float64"])
def test_everything_in_each_dtype(dtype):
    dtypes = ("float64", "float32") if dtype == "complex128" else ("float64", "float32", "bfloat16", "float16")
    check_vjp(everything, array(3, 4, dtype=dtype), array(dtype=dtype), dtypes=dtypes)


def test_long_sums_accumulate_wide():
    """A bfloat16 bias that was broadcast over 4096 rows: the gradient is rounded once."""
    ct = random_like(np.zeros((4096, 3), "bfloat16"), 1) + jnp.asarray(1, "bfloat16")
    _, pullback = fb.vjp(lambda b: lax.broadcast_in_dim(b, (4096, 3), (1,)), jnp.zeros(3, "bfloat16"))
    assert_close(pullback(ct)[0].astype("float64"), ct.astype("float64").sum(0), 2.0**-8)


def test_reshape_vjp_under_explicit_sharding():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(array(4, 6), jax.NamedSharding(mesh, jax.P("d", None)))

        def fun(x):
            y = lax.reshape(x, (4, 2, 3), out_sharding=jax.P("d", None, None))
            return jnp.sum(lax.broadcast_in_dim(y, (5, 4, 2, 3), (1, 2, 3), out_sharding=jax.P(None, "d")) ** 2)

        got, want = jax.jit(fb.grad(fun))(x), jax.jit(jax.grad(fun))(x)
        assert got.sharding == want.sharding
        assert_close(got, want, 1e-12)
