"""Inside of a `shard_map`: the gradient is the engine's, and blame names the line and the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import fnbackprop as fb
from fnbackprop.tracing.blame import Kind
from fnbackprop.tracing.pipeline import trace

from .helpers import line_of

P = PartitionSpec
X = jnp.arange(1.0, 33.0).reshape(8, 4) / 20


def mesh(axis_type=AxisType.Auto):
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(axis_type,) * 2)


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, dy: (2 * dy,))


def all_kinds(w, x):
    """Collectives, calls, a branch, loops, a user's rule, constants, and a value that is the same on all devices."""
    table = jnp.asarray(np.linspace(0.5, 1, 3, dtype=np.float32))
    h = lax.psum(jnp.tanh(x @ w), "model") * table[None]
    h = lax.ppermute(h, "data", [(0, 1), (1, 0)]) + lax.axis_index("data").astype(h.dtype)
    h = jax.checkpoint(lambda h: fb.name(doubled(jnp.sin(h)), "h"))(h)
    h = lax.cond(jnp.sum(h) > 1e3, lambda h: h * 3, lambda h: jnp.cos(h), h)
    total, rows = lax.scan(lambda c, r: (c + jnp.sum(r * w[0]), r * c), jnp.sum(h) * w[0, 0] * 0, h)
    total = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 1.5), (0, total))[1]
    gathered = jnp.sum(lax.all_gather(rows, "model") ** 2)
    return lax.psum(total + gathered, ("data", "model"))


def sharded(body, axis_type=AxisType.Auto, **options):
    specs = {"in_specs": (P("model", None), P("data", "model")), "out_specs": P()}
    return jax.shard_map(body, mesh=mesh(axis_type), **{**specs, **options})


@pytest.mark.parametrize("check_vma", [True, False])
def test_every_kind_of_equation(check_vma):
    def loss(w, x):
        return sharded(all_kinds, check_vma=check_vma)(w, x)

    w = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    found = trace(jax.jit(loss), w, X, argnums=(0, 1))
    value, gradients = jax.jit(fb.value_and_grad(loss, argnums=(0, 1)))(w, X)
    np.testing.assert_allclose(found.value, value, rtol=1e-5)
    for ours, expected in zip(found.gradients.values(), gradients, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * float(jnp.max(jnp.abs(expected))))
    paths = {label for record in found.records for label in record.path}
    assert {"shard_map", "scan"} <= paths and found.ok
    assert len([r for r in found.records if r.primitive == "ppermute"][0].cotangents) == 1


def test_a_value_with_a_name_has_a_row_for_each_device():
    def loss(x):
        body = lambda x: lax.psum(jnp.sum(fb.name(2 * x, "twice") ** 2), "data")  # noqa: E731
        return jax.shard_map(body, mesh=mesh(), in_specs=P("data"), out_specs=P())(x)

    x = jnp.arange(4.0)
    np.testing.assert_array_equal(trace(loss, x).cotangent("twice"), 4 * x.reshape(2, 2))


@pytest.mark.parametrize("axes", [None, {"data"}], ids=["manual", "partly manual"])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_result_that_is_copied_and_axes_of_other_kinds(axes, axis_type):
    """y has a copy of w's sum on each device, so its cotangent comes from all of them."""

    def loss(w):
        body = lambda w: jnp.sum(jnp.sin(w), keepdims=True)  # noqa: E731
        kept = {} if axes is None else {"axis_names": axes}
        y = jax.shard_map(body, mesh=mesh(axis_type), in_specs=P(), out_specs=P("data"), **kept)(w)
        return jnp.sum(y**2)

    w = jnp.arange(1.0, 4.0)
    expected = 2 * 2 * jnp.sum(jnp.sin(w)) * jnp.cos(w)
    np.testing.assert_allclose(trace(loss, w).gradients["args[0]"], expected, rtol=1e-5)


# ---------------------------------------------------------------- blame


def root(x):
    return jnp.sqrt(x)  # HERE


def log(x):
    return jnp.log(x)  # HERE


def trap(x):
    y = jnp.sqrt(x)  # HERE
    return jnp.where(x > 0, y, 0)  # BEHIND


def in_a_scan(x):
    return lax.scan(lambda c, r: (c + jnp.sqrt(r), None), x[0] * 0, x)[0]  # HERE


def in_a_loop(x):
    return lax.fori_loop(0, 3, lambda i, y: jnp.sqrt(y * 1.0), x)  # HERE


def in_a_while_loop(x):  # whose devices may take different numbers of steps
    return lax.while_loop(lambda y: jnp.sum(y) > 0.5, lambda y: jnp.sqrt(y) / 4, x)  # HERE


@jax.custom_vjp
def inverted(x):
    return x + 1


def inverted_backward(x, dy):
    return (dy / x * x,)  # HERE


inverted.defvjp(lambda x: (x + 1, x), inverted_backward)


def by_a_users_rule(x):
    return inverted(x)


CASES = [
    (root, Kind.INFINITE_DERIVATIVE, "sqrt", (), (1, 1)),
    (log, Kind.POLE, "log", (), (1, 1)),
    (trap, Kind.ZERO_TIMES_INFINITY, "sqrt", (), (1, 1)),
    (in_a_scan, Kind.INFINITE_DERIVATIVE, "sqrt", (1,), (1,)),
    (in_a_loop, Kind.INFINITE_DERIVATIVE, "sqrt", (2,), (1, 1)),
    (in_a_while_loop, Kind.INFINITE_DERIVATIVE, "while", (), (1, 1)),
    (by_a_users_rule, Kind.WRONG_RULE, "custom_vjp_call", (), (1, 1)),
]


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("fun, kind, primitive, iteration, element", CASES, ids=lambda c: getattr(c, "__name__", None))
def test_blame_names_the_device(fun, kind, primitive, iteration, element, jitted):
    def loss(w, x):
        body = lambda w, x: lax.psum(jnp.sum(fun(x * w)), ("data", "model"))  # noqa: E731
        return sharded(body, in_specs=(P(), P("data", "model")))(w, x)

    blame = trace(jax.jit(loss) if jitted else loss, jnp.float32(2), X.at[5, 3].set(0)).blame()
    found = blame.kind, blame.primitive, blame.place.line, blame.iteration
    line = line_of(inverted_backward if fun is by_a_users_rule else fun)
    assert found == (kind, primitive, line, iteration), blame
    assert (blame.device, blame.element) == ((("data", 1), ("model", 1)), element)
    assert "device data=1, model=1" in blame.sentence
    if kind is Kind.ZERO_TIMES_INFINITY:
        assert blame.behind.line == line_of(fun, "BEHIND")


def test_a_body_that_is_not_looked_into_is_told():
    def loss(w, x):
        body = lambda w, x: lax.psum(jnp.sum(in_a_while_loop(x * w)), ("data", "model"))  # noqa: E731
        return sharded(body, in_specs=(P(), P("data", "model")))(w, x)

    found = trace(loss, jnp.float32(2), X)
    (note,) = [note for note in found.notes if "stands in a shard_map" in note]
    assert note.startswith("while at test_regions.py:") and note in str(found)


def test_an_overflow_in_a_collective():
    def loss(x):
        body = lambda x: jnp.sum(lax.psum(x * 1e38, "data"))  # HERE  # noqa: E731
        return jax.shard_map(body, mesh=mesh(), in_specs=P("data"), out_specs=P())(x)

    blame = trace(loss, jnp.full(2, 2.5)).blame()
    assert blame.kind is Kind.OVERFLOW and blame.primitive.startswith("psum") and blame.device == ()
