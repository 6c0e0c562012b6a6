import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..checking import assert_close, check_numeric, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")


def array(*shape, dtype="float64", seed=3):
    return random_like(np.zeros(shape, dtype), seed)


def pool(reducer, init, layout):
    """`lax.reduce_window` as a function of its operand. A layout: shape, window, strides, padding, base, dilation."""

    def fun(x):
        value = np.asarray(init, x.dtype)
        return lax.reduce_window(x, value, reducer, *(layout[key] for key in KEYS))

    return fun


KEYS = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")


def layout(shape, window, strides=None, padding=None, base=None, dilation=None):
    ones = (1,) * len(shape)
    return {
        "shape": shape,
        "window_dimensions": window,
        "window_strides": strides or ones,
        "padding": padding or ((0, 0),) * len(shape),
        "base_dilation": base or ones,
        "window_dilation": dilation or ones,
    }


LAYOUTS = {
    "overlapping": layout((5, 4), (2, 3)),
    "strided": layout((5, 7), (2, 3), (2, 3)),
    "strides leave gaps": layout((7,), (2,), (3,)),
    "rest after the last window": layout((8,), (3,), (4,)),
    "padded": layout((4, 5), (3, 2), (2, 1), ((1, 2), (0, 1))),
    "cropped": layout((6, 5), (2, 2), (1, 2), ((-1, 1), (0, -2))),
    "cropped on both ends": layout((6,), (2,), (1,), ((-2, -1),)),
    "base dilation": layout((4, 3), (2, 3), (1, 2), ((1, 0), (1, 2)), (2, 3)),
    "window dilation": layout((7, 5), (3, 2), (1, 2), ((1, 2), (0, 1)), None, (2, 3)),
    "both dilations": layout((5,), (3,), (2,), ((2, 3),), (3,), (2,)),
    "cropped and dilated": layout((6,), (2,), (1,), ((-2, 1),), (2,), (3,)),
    "whole axis": layout((3, 4), (3, 1)),
    "window of one": layout((3,), (1,), (2,)),
    "windows of padding alone": layout((2,), (2,), (1,), ((3, 3),)),
    "three axes": layout((2, 3, 4), (1, 2, 2), (1, 1, 2)),
    "no window fits": layout((2, 3), (3, 1)),
    "empty": layout((0, 3), (1, 2)),
    "scalar": layout((), ()),
}
DILATED = ["window dilation", "both dilations", "cropped and dilated"]
# JAX's own rule refuses window dilation and crops; of a scalar it aborts the process.
REFUSED = [*DILATED, "cropped", "cropped on both ends", "empty", "no window fits", "scalar"]


@pytest.mark.parametrize("case", LAYOUTS)
def test_reduce_window_sum_vjp(case):
    fun = pool(lax.add, 0, LAYOUTS[case])
    x = array(*LAYOUTS[case]["shape"])
    check_vjp(lambda x: lax.square(fun(x)), x, batched=case == "both dilations")


@pytest.mark.parametrize(
    ("name", "case"), [*itertools.product(["max"], LAYOUTS), ("min", "padded"), ("min", "both dilations")]
)
def test_reduce_window_max_vjp(name, case):
    reducer, init = (lax.max, -np.inf) if name == "max" else (lax.min, np.inf)
    fun = pool(reducer, init, LAYOUTS[case])
    x = array(*LAYOUTS[case]["shape"])
    if case not in REFUSED:
        return check_vjp(lambda x: lax.sin(fun(x)), x, batched=case == "padded")
    check_numeric(lambda x: lax.sin(fun(x)), x)
    if case in DILATED:
        check_numeric(fb.grad(lambda x: jnp.sum(lax.sin(fun(x)))), x)


@pytest.mark.parametrize("case", DILATED)
def test_dilated_extremes_under_vmap(case):
    fun = pool(lax.max, -np.inf, LAYOUTS[case])
    xs = array(3, *LAYOUTS[case]["shape"])
    cts = random_like(jax.vmap(fun)(xs), 5)
    got = jax.vmap(lambda x, ct: fb.vjp(fun, x)[1](ct)[0])(xs, cts)
    want = jnp.stack([fb.vjp(fun, x)[1](ct)[0] for x, ct in zip(xs, cts, strict=True)])
    assert_close(got, want, 1e-12)


def test_dilated_extremes_forward_over_reverse():
    """jax.jvp of our gradient, which goes around JAX's missing JVP of a window over several operands."""
    fun = pool(lax.max, -np.inf, LAYOUTS["window dilation"])
    gradient = fb.grad(lambda x: jnp.sum(lax.sin(fun(x))))
    x, t = array(7, 5), array(7, 5, seed=4)
    assert_close(jax.jvp(gradient, (x,), (t,))[1], fb.vjp(gradient, x)[1](t)[0], 1e-12)  # a symmetric Hessian


@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_go_to_the_first_as_in_jax(name):
    reducer, init = (lax.max, -np.inf) if name == "max" else (lax.min, np.inf)
    x = jnp.array([[2.0, 2.0, 1.0, 2.0], [1.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 2.0]])
    check_vjp(pool(reducer, init, layout((3, 4), (2, 2))), x, order=1, batched=False)
    traced = pool(lambda a, b: reducer(a, b), init, layout((3, 4), (2, 2)))  # a reducer that JAX does not recognise
    ct = array(2, 3)
    assert_close(fb.vjp(traced, x)[1](ct), jax.vjp(pool(reducer, init, layout((3, 4), (2, 2))), x)[1](ct), 1e-12)
    dilated = fb.jacrev(pool(reducer, init, layout((5,), (2,), dilation=(2,))))(jnp.array([3.0, 1.0, 3.0, 1.0, 3.0]))
    assert_close(dilated, jnp.eye(3, 5), 1e-12)


def test_a_dilated_window_prefers_nan():
    got = fb.jacrev(pool(lax.max, -np.inf, layout((4,), (2,), dilation=(2,))))(jnp.array([jnp.nan, 1.0, 3.0, jnp.nan]))
    assert_close(got, jnp.array([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]), 1e-12)


@pytest.mark.parametrize("dtype", ["complex128"])
def test_reduce_window_sum_vjp_complex(dtype):
    check_vjp(pool(lax.add, 0, LAYOUTS["both dilations"]), array(5, dtype=dtype), order=1)


@pytest.mark.parametrize("reducer", [lax.add, lax.max, lax.min])
def test_low_precision(reducer):
    init = {lax.add: 0, lax.max: -np.inf, lax.min: np.inf}[reducer]
    fun = pool(reducer, init, LAYOUTS["padded"])
    check_vjp(fun, array(4, 5), dtypes=("bfloat16", "float16"), order=1, batched=False)


def test_long_sums_accumulate_wide():
    ct = random_like(np.zeros(4096, "bfloat16"), 1) + jnp.asarray(1, "bfloat16")
    fun = pool(lax.add, 0, layout((4096,), (4096,), padding=((4095, 0),)))
    _, pullback = fb.vjp(fun, jnp.zeros(4096, "bfloat16"))
    want = jnp.cumsum(ct.astype("float64")[::-1])[::-1]
    assert_close(pullback(ct)[0].astype("float64"), want, 2.0**-8)


@pytest.mark.parametrize("prefer", [lax.ge_p, lax.le_p])
def test_select_and_scatter_add_vjp(prefer):
    params = {"window_dimensions": (2, 3), "window_strides": (1, 2), "padding": ((0, 1), (1, 1))}
    operand = array(4, 5)

    def fun(source):
        same = lax.convert_element_type(operand, source.dtype)
        return lax.square(lax.select_and_scatter_add_p.bind(source, same, select_prim=prefer, **params))

    check_vjp(fun, array(4, 3), batched=False)
    gradient = fb.grad(
        lambda x: jnp.sum(lax.select_and_scatter_add_p.bind(array(4, 3), x, select_prim=prefer, **params))
    )
    assert_close(gradient(operand), jnp.zeros((4, 5)), 0)


@pytest.mark.parametrize("case", ["padded", "strided", "base dilation", "window dilation", "both dilations"])
@pytest.mark.parametrize("prefer", [lax.ge_p, lax.le_p])
def test_select_and_gather_add_vjp(prefer, case):
    params = {key: LAYOUTS[case][key] for key in KEYS}
    shape = LAYOUTS[case]["shape"]
    operand = array(*shape)

    def fun(tangents):
        return lax.square(lax.select_and_gather_add_p.bind(tangents, operand, select_prim=prefer, **params))

    check_numeric(fun, array(*shape, seed=6))


# Folds by functions for which `jax.grad` has no rule, of two elements.
MONOIDS = {
    "mul": (lax.mul, 1.0),
    "mul from 2": (lax.mul, 2.0),
    "add from 3": (lax.add, 3.0),
    "max from 0.2": (lax.max, 0.2),
    "logaddexp": (jnp.logaddexp, -np.inf),
    "logaddexp from 1": (jnp.logaddexp, 1.0),
    "probabilistic or": (lambda a, b: a + b - a * b, 0.0),
}


@pytest.mark.parametrize(("monoid", "case"), [*itertools.product(["mul", "logaddexp"], LAYOUTS)])
def test_reduce_window_vjp(monoid, case):
    reducer, init = MONOIDS[monoid]
    fun = pool(reducer, init, LAYOUTS[case])
    check_numeric(lambda x: lax.atan(fun(x)), array(*LAYOUTS[case]["shape"]))


@pytest.mark.parametrize("monoid", MONOIDS)
def test_reduce_window_vjp_monoids(monoid):
    reducer, init = MONOIDS[monoid]
    x = array(4, 5)
    check_numeric(pool(reducer, init, LAYOUTS["padded"]), x)
    check_numeric(fb.grad(lambda x: jnp.sum(lax.sin(pool(reducer, init, LAYOUTS["padded"])(x)))), x)


def test_reduce_window_vjp_of_the_initial_value():
    for case in ("padded", "windows of padding alone", "base dilation"):
        params = [LAYOUTS[case][key] for key in KEYS]
        check_numeric(
            lambda x, v, p=params: lax.reduce_window(x, v, lax.mul, *p), array(*LAYOUTS[case]["shape"]), array()
        )


def test_reduce_window_vjp_equals_the_sum_rule():
    """Addition by a function that JAX does not recognise, against the rule for the sum, in each layout."""
    for each in LAYOUTS.values():
        x = array(*each["shape"])
        general = pool(lambda a, b: a + b + 0 * a * b, 0, each)

        @jax.jit
        def pulled(x, each=each, general=general):
            value, pullback = fb.vjp(general, x)
            ct = random_like(value, 4)
            return pullback(ct), fb.vjp(pool(lax.add, 0, each), x)[1](ct)

        assert_close(*pulled(x), 1e-12)


def test_reduce_window_vjp_of_two_operands():
    """Pairs (a, b) under the composition of maps t -> b + a·t, which does not commute."""

    def compose(first, then):
        return first[0] * then[0], then[1] + then[0] * first[1]

    def fun(a, b):
        return lax.reduce_window((a, b), (1.0, 0.0), compose, (3,), (2,), ((1, 0),), (1,), (2,))

    check_numeric(fun, array(9), array(9, seed=4))


def test_reduce_window_vjp_under_vmap():
    fun = pool(lax.mul, 1.0, LAYOUTS["padded"])
    xs = array(3, 4, 5)
    gradient = jax.jit(fb.grad(lambda x: fun(x).sum()))
    assert_close(jax.jit(jax.vmap(gradient))(xs), jnp.stack([gradient(x) for x in xs]), 1e-12)
