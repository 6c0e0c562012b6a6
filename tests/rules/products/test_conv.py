"""conv_general_dilated over random strides, paddings, dilations, groups and layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.products import conv
from fnbackprop.rules.products.dot import swapped

from ..checking import TOLERANCE, assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")


def normal(*shape, dtype="float64", seed=0):
    return random_like(np.zeros(shape, dtype), seed)


def random_convolution(seed: int, dtype: str = "float64"):
    """Operands and parameters of a convolution of 1 to 3 spatial axes; every fourth is grouped by batch."""
    rng = np.random.default_rng(seed)
    rank, groups = 1 + seed % 3, int(rng.integers(1, 4))
    by_batch = seed % 4 == 3
    batch, features, out = (int(n) for n in rng.integers(1, 4, size=3))
    kernel = rng.integers(1, 4, size=rank)
    dilations = rng.integers(1, 3, size=(2, rank))
    window = (kernel - 1) * dilations[1] + 1
    padding = rng.integers(-1, 3, size=(rank, 2))
    size = np.maximum(1, -(-(window - padding.sum(axis=1) + rng.integers(0, 4, size=rank)) // dilations[0]) + 1)
    specs = [tuple(int(a) for a in rng.permutation(rank + 2)) for _ in range(3)]
    x_sizes = (batch * (groups if by_batch else 1), features * (1 if by_batch else groups), *size)
    x_shape, w_shape = ([0] * (rank + 2) for _ in range(2))
    for spec, shape, sizes in ((specs[0], x_shape, x_sizes), (specs[1], w_shape, (out * groups, features, *kernel))):
        for axis, length in zip(spec, sizes, strict=True):
            shape[axis] = int(length)
    params = {
        "window_strides": rng.integers(1, 4, size=rank).tolist(),
        "padding": padding.tolist(),
        "lhs_dilation": dilations[0].tolist(),
        "rhs_dilation": dilations[1].tolist(),
        "dimension_numbers": lax.ConvDimensionNumbers(*specs),
        "feature_group_count": 1 if by_batch else groups,
        "batch_group_count": groups if by_batch else 1,
    }
    return normal(*x_shape, dtype=dtype, seed=seed), normal(*w_shape, dtype=dtype, seed=seed + 1), params


@pytest.mark.parametrize("seed", range(30))
def test_conv_general_dilated_vjp(seed):
    x, w, params = random_convolution(seed)
    thorough = seed % 10 == 0
    check_vjp(
        lambda x, w: lax.conv_general_dilated(x, w, **params),
        x,
        w,
        dtypes=["float64", "float32"] if thorough else ["float64"],
        order=1 + (seed % 5 == 0),
        batched=thorough,
    )


@pytest.mark.parametrize("seed", range(3))
def test_conv_general_dilated_vjp_complex(seed):
    x, w, params = random_convolution(seed, "complex128")
    check_vjp(lambda x, w: lax.conv_general_dilated(x, w, **params), x, w, dtypes=["float64"], batched=False)


@pytest.mark.parametrize(
    "x_shape, w_shape, padding",
    [
        ((0, 2, 5), (3, 2, 2), (1, 1)),  # no batch
        ((2, 0, 5), (3, 0, 2), (1, 1)),  # no input features
        ((2, 2, 5), (0, 2, 2), (1, 1)),  # no output features
        ((2, 2, 5), (3, 2, 4), (-1, -1)),  # no output
        ((2, 2, 0), (3, 2, 2), (2, 2)),  # nothing but padding
    ],
)
def test_conv_general_dilated_vjp_of_no_elements(x_shape, w_shape, padding):
    x, w = normal(*x_shape), normal(*w_shape, seed=1)
    check_vjp(lambda x, w: lax.conv_general_dilated(x, w, (1,), [padding]), x, w, order=1, batched=False)


def test_conv_general_dilated_vjp_without_space():
    check_vjp(lambda x, w: lax.conv_general_dilated(x, w, (), []), normal(2, 3), normal(4, 3, seed=1), batched=False)


@pytest.mark.parametrize("layout", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "HWNC")])
def test_conv_general_dilated_vjp_of_one_point(layout):
    """A kernel of one point; its gradient is one contraction."""
    sizes = {"N": 2, "H": 3, "W": 4, "C": 2, "I": 2, "O": 5}
    x = normal(*(sizes[k] for k in layout[0]))
    w = normal(*({**sizes, "H": 1, "W": 1}[k] for k in layout[1]), seed=1)

    def convolution(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=layout, precision=("high", "default"))

    check_vjp(convolution, x, w)
    z, _ = fb.vjp(convolution, x, w)
    jaxpr = jax.make_jaxpr(lambda dz: fb.vjp(lambda w: convolution(x, w), w)[1](dz))(z)
    assert sum(eqn.primitive.name == "conv_general_dilated" for eqn in jaxpr.eqns) == 1, "the forward pass alone"


@pytest.mark.parametrize("layout", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
def test_conv_general_dilated_vjp_of_one_point_by_algorithm(layout):
    """A dot algorithm in place of a pair of precisions: a preset, and one that treats the operands unlike."""
    narrow = lax.DotAlgorithm(np.float32, np.float32, np.float32, lhs_component_count=3, rhs_component_count=1)
    shapes = {"NHWC": (2, 3, 4, 2), "NCHW": (2, 2, 3, 4), "HWIO": (1, 1, 2, 5), "OIHW": (5, 2, 1, 1)}
    x, w = (normal(*shapes[spec], dtype="float32", seed=i) for i, spec in enumerate(layout[:2]))

    def gradient(x, w, precision):
        def convolution(w):
            return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=layout, precision=precision)

        z, pullback = fb.vjp(convolution, w)
        return pullback(z)

    for precision in (lax.DotAlgorithmPreset.F32_F32_F32, narrow):
        jaxpr = jax.make_jaxpr(lambda x, w, precision=precision: gradient(x, w, precision))(x, w)
        (product,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
        x_is_left = product.invars[0] is jaxpr.jaxpr.invars[0]
        assert product.params["precision"] == (precision if x_is_left else swapped(precision))
    assert_close(gradient(x, w, lax.DotAlgorithmPreset.F32_F32_F32), gradient(x, w, "highest"), TOLERANCE["float32"])


def test_conv_general_dilated_vjp_of_one_point_displaced():
    """A padding that shifts the input by one leaves its length."""
    check_vjp(lambda x, w: lax.conv_general_dilated(x, w, (1,), [(1, -1)]), normal(2, 3, 5), normal(4, 3, 1, seed=1))


@pytest.mark.parametrize(
    "dtype, preferred, tolerance",
    [
        ("bfloat16", None, "bfloat16"),
        ("bfloat16", "float32", "bfloat16"),
        ("float16", "float32", "float16"),
        ("float32", "float64", "float32"),
    ],
)
@pytest.mark.parametrize("width", [1, 3])
def test_conv_general_dilated_vjp_element_types(dtype, preferred, tolerance, width):
    """Each cotangent has its operand's dtype, and the accuracy of it, against float64."""
    x, w = normal(4, 5, 6, 3, dtype=dtype), normal(width, width, 3, 2, dtype=dtype, seed=1)

    def convolution(x, w, preferred=preferred):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=layout, preferred_element_type=preferred
        )

    z, pullback = fb.vjp(convolution, x, w)
    dz = random_like(z, 2)
    exact = [a.astype("float64") for a in (x, w, dz)]
    _, theirs = jax.vjp(lambda x, w: convolution(x, w, None), *exact[:2])
    want = tuple(a.astype(dtype) for a in theirs(exact[2]))
    assert_close(pullback(dz), want, TOLERANCE[tolerance] / 4)


def test_conv_general_dilated_vjp_keeps_shardings():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(normal(4, 2, 5), jax.P("i"))
        w = normal(3, 2, 2, seed=1)

        @jax.jit
        def pull(x, w):
            z, pullback = fb.vjp(lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME"), x, w)
            return pullback(z)

        dx, dw = pull(x, w)
        assert jax.typeof(dx).sharding == jax.typeof(x).sharding
    x, w, dx, dw = (np.asarray(a) for a in (x, w, dx, dw))
    z, theirs = jax.vjp(lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME"), x, w)
    assert_close((dx, dw), tuple(np.asarray(a) for a in theirs(z)), 1e-12)


def test_a_kernel_not_reversed_is_found(monkeypatch):
    monkeypatch.setattr(conv.lax, "rev", lambda w, axes: w)
    with pytest.raises(AssertionError, match="vjp"):
        check_vjp(lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME"), normal(1, 2, 5), normal(3, 2, 3))


@pytest.mark.parametrize("grouped", ["feature_group_count", "batch_group_count"])
def test_groups_in_the_wrong_order_are_found(monkeypatch, grouped):
    def minor(x, source, target, groups):
        return x if groups == 1 else _with_groups_behind(x, source, target, groups)

    monkeypatch.setattr(conv, "_move_groups", minor)
    x = normal(2, 6, 5) if grouped == "feature_group_count" else normal(4, 3, 5)
    with pytest.raises(AssertionError, match="vjp"):
        check_vjp(lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME", **{grouped: 2}), x, normal(4, 3, 3))


def _with_groups_behind(x, source, target, groups):
    """The groups moved as `_move_groups` does, but to be the minor part."""
    moved = jnp.stack(jnp.split(x, groups, source), axis=target + 1)
    return lax.reshape(moved, (*moved.shape[:target], moved.shape[target] * groups, *moved.shape[target + 2 :]))
