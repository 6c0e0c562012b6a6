"""fb.block: wherever JAX code runs, by both libraries, audited against its plain definition, with clear errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fnbackprop as fb

from ..rules.checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")


def layer_forward(params, x, labels=None, *, slope=1.0):
    y = jnp.tanh(slope * (x @ params["w"]))  # 1
    out = y if labels is None else y * labels[..., None].astype(y.dtype)  # 2
    return out, (params, x, labels, y)


def layer_backward(residuals, dout, *, slope):
    params, x, labels, y = residuals
    dy = dout if labels is None else dout * labels[..., None].astype(y.dtype)  # of 2
    dz = slope * dy * (1 - y**2)  # of 1
    return {"w": jnp.einsum("...i,...j->ij", x, dz)}, dz @ params["w"].T, None


def plain_layer(params, x, labels=None, *, slope=1.0):
    y = jnp.tanh(slope * (x @ params["w"]))
    return y if labels is None else y * labels[..., None].astype(y.dtype)


layer = fb.block(layer_forward, layer_backward, plain=plain_layer, name="layer")
RNG = np.random.default_rng(0)
PARAMS, X, LABELS = {"w": RNG.normal(size=(3, 3))}, RNG.normal(size=(4, 3)), np.arange(4)


def loss(function):
    return lambda params, x, labels=LABELS: jnp.sum(jnp.cos(function(params, x, jnp.asarray(labels), slope=0.5)))


def scanned(function):
    def run(params, x):
        return jnp.sum(jax.lax.scan(lambda h, _: (function(params, h), None), x, None, length=3)[0] ** 2)

    return run


PROGRAMS = {
    "plainly": loss,
    "with a mask of integers, in a scan": scanned,
    "jitted": lambda f: jax.jit(loss(f)),
    "checkpointed": lambda f: jax.checkpoint(loss(f)),
    "mapped over both": lambda f: (
        lambda p, x: jnp.sum(jax.vmap(loss(f), (None, 0, 0))(p, jnp.stack([x, 2 * x]), jnp.stack([LABELS, LABELS])))
    ),
    "mapped over the parameters": lambda f: (
        lambda p, x: jnp.sum(jax.vmap(lambda s: loss(f)(jax.tree.map(lambda w: s * w, p), x))(jnp.asarray([1.0, 2.0])))
    ),
    "in a cond": lambda f: lambda p, x: jax.lax.cond(jnp.sum(x) > 1e3, lambda: 0.0, lambda: loss(f)(p, x)),
    "of the parameters alone": lambda f: lambda p, x: loss(f)(p, jax.lax.stop_gradient(x)),
}


@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_gradients_of_programs(program, lib):
    got = lib.value_and_grad(program(layer), (0, 1))(PARAMS, X)
    assert_close(got, jax.value_and_grad(program(plain_layer), (0, 1))(PARAMS, X), 1e-12)


def test_second_order():
    """Each library's gradient of each library's, and forward over reverse."""

    def of_gradient(outer, inner, f):
        return outer(lambda p, x: jnp.sum(jnp.sin(inner.grad(loss(f), 1)(p, x))))(PARAMS, X)

    want = of_gradient(jax.grad, jax, plain_layer)
    for outer in (fb, jax):
        for inner in (fb, jax):
            assert_close(of_gradient(outer.grad, inner, layer), want, 1e-11)
    for lib in (fb, jax):
        forward = of_gradient(jax.jacfwd, lib, layer)
        assert_close(forward, want, 1e-11)


def test_eager_and_without_a_gradient():
    assert_close(fb.grad(loss(layer), eager=True)(PARAMS, X), jax.grad(loss(plain_layer))(PARAMS, X), 1e-12)
    assert_close(layer(PARAMS, X, labels=LABELS), plain_layer(PARAMS, X, LABELS), 1e-12)


@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
def test_shard_map_sums_the_cotangents_of_what_is_replicated(lib):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def run(f, p, x):
        def body(p, x, labels):
            return jax.lax.psum(loss(f)(p, x, labels), "data")

        return jax.shard_map(body, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())(p, x, LABELS)

    got = jax.jit(lib.grad(functools.partial(run, layer), (0, 1)))(PARAMS, X)
    assert_close(got, jax.grad(loss(plain_layer), (0, 1))(PARAMS, X), 1e-12)


@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
def test_explicit_sharding(lib):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P("data")))
        params = jax.device_put(PARAMS, NamedSharding(mesh, P()))

        def run(p, x):
            return jnp.sum(elementwise(p["w"][0], x) ** 2)

        got = jax.jit(lib.grad(run, 1))(params, x)
        assert jax.typeof(got).sharding.spec == P("data", None)
    assert_close(np.asarray(got), np.asarray(2 * X * PARAMS["w"][0][None] ** 2), 1e-12)


def elementwise_backward(residuals, dy, *, wanted):
    w, x = residuals
    seen.append(wanted)
    return jnp.sum(dy * x, 0) if wanted[0] else None, dy * w[None] if wanted[1] else None


seen = []
elementwise = fb.block(lambda w, x: (w[None] * x, (w, x)), elementwise_backward, name="elementwise")


@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
def test_a_backward_is_told_which_cotangents_are_wanted(lib):
    w = PARAMS["w"][0]
    for argnums, wanted in ((0, (True, False)), (1, (False, True)), ((0, 1), (True, True))):
        seen.clear()
        got = lib.grad(lambda w, x: jnp.sum(elementwise(w, x) ** 3), argnums)(w, X)
        assert seen == [wanted]
        assert_close(got, jax.grad(lambda w, x: jnp.sum((w[None] * x) ** 3), argnums)(w, X), 1e-12)


def test_a_call_without_a_gradient_runs_the_value():
    calls = []
    square = fb.block(
        lambda x: (calls.append("forward") or x * x, x), lambda x, dy: (2 * x * dy,),
        value=lambda x: calls.append("value") or x * x, name="square",
    )  # fmt: skip
    assert square(3.0) == 9.0 and calls == ["value"]
    assert fb.grad(square)(3.0) == 6.0 and calls[-1] == "forward"


# ---------------------------------------------------------------- fb.compare


def compared(forward=layer_forward, backward=layer_backward, **options):
    function = fb.block(forward, backward, plain=plain_layer, name="layer")
    return fb.compare(loss(function), PARAMS, X, argnums=(0, 1), **options)


def test_compare_accepts_a_right_block():
    result = compared()
    assert result.ok and not result.first_difference


@pytest.mark.parametrize("argument, operand", [(0, 0), (1, 1)])
def test_compare_finds_a_wrong_cotangent_and_names_the_block(argument, operand):
    def wrong(residuals, dout, *, slope):
        found = list(layer_backward(residuals, dout, slope=slope))
        found[argument] = jax.tree.map(lambda ct: 0.5 * ct, found[argument])
        return tuple(found)

    result = compared(backward=wrong)
    first = result.first_difference
    assert not result.ok and first.name == "layer" and first.operand == operand
    assert "test_block.py" in first.where and "test_block.py" in first.rule_at
    assert first.hypothesis.factor == pytest.approx(0.5)


def test_compare_finds_a_wrong_value():
    def wrong(params, x, labels=None, *, slope=1.0):
        out, residuals = layer_forward(params, x, labels, slope=slope)
        return out * 1.01, residuals

    result = compared(forward=wrong)
    assert not result.ok
    assert any(
        check.name == "the value is the same with a backward pass and without" and check.reason
        for check in result.contract
    )


# ---------------------------------------------------------------- errors


def returning(*found):
    return fb.block(layer_forward, lambda residuals, dout: found, name="layer")


WRONG = {
    "too few": (returning(None, None), TypeError, r"layer returned 2 cotangents for the 3 arguments.*\(params, x, lab"),
    "no tuple": (
        fb.block(layer_forward, lambda residuals, dout: dout, name="layer"), TypeError, "layer returned a .*3 arguments"
    ),
    "shape": (returning(None, jnp.zeros((3, 4)), None), ValueError, r"shape \(3, 4\) for its argument x, .*\(4, 3\)"),
    "leaf": (returning({"w": jnp.zeros(3)}, None, None), ValueError, r"shape \(3,\) for its argument params\['w'\]"),
    "structure": (returning({"v": jnp.zeros((3, 3))}, None, None), ValueError, "another structure than its argument p"),
    "integer": (returning(None, None, jnp.zeros(4)), TypeError, "argument labels, which is int"),
    "no pair": (fb.block(lambda params, x, labels, *, slope: x, layer_backward, name="layer"), TypeError, "pair"),
    "option": (functools.partial(layer, slope=jnp.ones(())), TypeError, "slope is an option.*positional"),
}  # fmt: skip


@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
@pytest.mark.parametrize("function, error, message", WRONG.values(), ids=WRONG)
def test_errors_name_the_block_and_the_argument(function, error, message, lib):
    def run(params, x):
        options = {} if isinstance(function, functools.partial) else {"slope": 0.5}
        return jnp.sum(function(params, x, LABELS, **options))

    with pytest.raises(error, match=message):
        lib.grad(run, (0, 1))(PARAMS, X)


def test_a_forward_of_any_number_of_arguments_is_refused():
    with pytest.raises(TypeError, match="pair: forward has .args"):
        fb.block(lambda *xs: (xs, xs), lambda xs, dy: dy, name="pair")
    with pytest.raises(TypeError, match="layer.. misses x"):
        layer(PARAMS)


def test_equal_options_of_another_type_or_sign_are_told_apart():
    scaled = fb.block(lambda x, *, by: (x / by, None), lambda _, dy, *, by: (dy / by,), name="scaled")
    with jax.numpy_dtype_promotion("standard"):
        values = [scaled(jnp.ones(()), by=by) for by in (0.0, -0.0)]
        dtypes = [scaled(jnp.ones((), jnp.bfloat16), by=by).dtype for by in (1, np.float32(1))]
    assert values == [np.inf, -np.inf] and dtypes == [jnp.bfloat16, jnp.float32]
