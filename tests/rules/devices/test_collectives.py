"""Each collective under `shard_map` with and without checked types, and under an axis name of `vmap`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop.backprop.registry import vjp_rule
from fnbackprop.rules.devices.collectives import (
    pbroadcast_dynamic_vjp,
    pbroadcast_vjp,
    ragged_all_to_all_vjp_into,
    ragged_all_to_all_vjp_x,
)

from ..checking import assert_close, check_numeric, check_vjp, random_cotangent

pytestmark = pytest.mark.usefixtures("x64")

DEVICES = 4
GROUPS = [[0, 2], [3, 1]]
MESH = jax.make_mesh((DEVICES,), ("i",), devices=jax.devices()[:DEVICES], axis_types=(AxisType.Auto,))
PLANE = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4], axis_types=(AxisType.Auto,) * 2)


class Case(NamedTuple):
    """A function of one device's (4, 3) block. With checked types some give one value, the same on every device."""

    fun: Callable
    one_value: bool = False


def ring(v):
    return lax.ppermute(v, "i", [(d, (d + 1) % DEVICES) for d in range(DEVICES)])


EVERYWHERE = {
    "psum": Case(lambda v: lax.psum(v, "i"), one_value=True),
    "psum of a pair": Case(lambda v: sum(lax.psum((v, v * v), "i")), one_value=True),
    "pmean": Case(lambda v: lax.pmean(v, "i"), one_value=True),
    "deviation from the mean": Case(lambda v: v - lax.pmean(v, "i")),
    "softmax over devices": Case(lambda v: jnp.exp(v) / lax.psum(jnp.exp(v), "i")),
    "psum of a part": Case(lambda v: lax.psum(v, "i")[:2] * lax.stop_gradient(lax.psum(v, "i"))[2:], one_value=True),
    "all_gather": Case(lambda v: lax.all_gather(v, "i")),
    "all_gather axis 2": Case(lambda v: lax.all_gather(v, "i", axis=2)),
    "all_gather tiled": Case(lambda v: lax.all_gather(v, "i", axis=1, tiled=True)),
    "psum_scatter": Case(lambda v: lax.psum_scatter(v, "i")),
    "psum_scatter tiled": Case(lambda v: lax.psum_scatter(v, "i", scatter_dimension=0, tiled=True)),
    "psum_scatter axis 1": Case(lambda v: lax.psum_scatter(v.T, "i", scatter_dimension=1, tiled=True)),
    "ppermute": Case(ring),
    "pshuffle": Case(lambda v: lax.pshuffle(v, "i", [3, 0, 2, 1])),
    "all_to_all same axis": Case(lambda v: lax.all_to_all(v, "i", 0, 0)),
    "all_to_all tiled": Case(lambda v: lax.all_to_all(v, "i", 0, 1, tiled=True)),
    "pswapaxes": Case(lambda v: lax.pswapaxes(v, "i", 0)),
    "axis_index": Case(lambda v: v * (1 + lax.axis_index("i")).astype(v.dtype)),
}
ON_DEVICES = EVERYWHERE | {
    "all_gather in groups": Case(lambda v: lax.all_gather(v, "i", axis_index_groups=GROUPS)),
    "psum_scatter in groups": Case(lambda v: lax.psum_scatter(v[:2], "i", axis_index_groups=GROUPS)),
    "ppermute without sources": Case(lambda v: lax.ppermute(v, "i", [(0, 2), (3, 1)])),
    "all_to_all in groups": Case(lambda v: lax.all_to_all(v, "i", 0, 1, axis_index_groups=GROUPS, tiled=True)),
}
CHECKED = ON_DEVICES | {
    "all_gather to one value": Case(lambda v: lax.all_gather(v, "i", to="invarying"), one_value=True),
    "all_gather tiled to one value": Case(
        lambda v: lax.all_gather(v, "i", axis=1, tiled=True, to="invarying"), one_value=True
    ),
    "psum of terms": Case(lambda v: lax.psum(lax.pcast(v, "i", to="unreduced"), "i"), one_value=True),
}
UNCHECKED = ON_DEVICES | {
    "psum in groups": Case(lambda v: lax.psum(v, "i", axis_index_groups=GROUPS)),
}
# What `jax.vjp` refuses, or gives wrongly in one of the versions.
REFUSED = {
    "pmax": Case(lambda v: lax.pmax(v, "i"), one_value=True),
    "pmin": Case(lambda v: lax.pmin(v, "i"), one_value=True),
    "logsumexp over devices": Case(
        lambda v: lax.pmax(v, "i") + jnp.log(lax.psum(jnp.exp(v - lax.pmax(v, "i")), "i")), one_value=True
    ),
    "all_to_all": Case(lambda v: lax.all_to_all(v, "i", 0, 1)),
}
REFUSED_UNCHECKED = REFUSED | {
    "pmax in groups": Case(lambda v: lax.pmax(v, "i", axis_index_groups=GROUPS)),
    "pmin in groups": Case(lambda v: lax.pmin(v, "i", axis_index_groups=GROUPS)),
    "all_gather to one value": Case(lambda v: lax.all_gather(v, "i", to="invarying"), one_value=True),
}


def block(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def blocks(cases, *shape):
    """An operand for each case."""
    return [block(*shape, seed=i) for i in range(len(cases))]


def shard(fun, check, one_value=False):
    """`fun` over the devices: blocks along the first axis."""
    return jax.shard_map(fun, mesh=MESH, in_specs=P("i"), out_specs=P() if one_value else P("i"), check_vma=check)


def together(cases, across):
    """The cases as one function, an operand and a result for each, so that all are compiled at once.

    The sine and the square make the second derivative differ from zero."""

    def wrapped(case):
        return across(Case(lambda v: jnp.sin(case.fun(v * v)), case.one_value))

    wraps = [wrapped(case) for case in cases.values()]
    return jax.jit(lambda *xs: [wrap(x) for wrap, x in zip(wraps, xs, strict=True)])


def check(fun, *xs):
    """In float64 alone: what a collective does depends on no dtype."""
    check_vjp(fun, *xs, dtypes=("float64",), batched=False)


def on_devices(check):
    return lambda case: shard(case.fun, check, case.one_value)


def vmapped(case):
    return jax.vmap(case.fun, axis_name="i")


def test_collectives_under_shard_map():
    check(together(CHECKED, on_devices(True)), *blocks(CHECKED, 4 * DEVICES, 3))


def test_collectives_under_shard_map_unchecked():
    check(together(UNCHECKED, on_devices(False)), *blocks(UNCHECKED, 4 * DEVICES, 3))


def test_collectives_under_an_axis_name_of_vmap():
    check(together(EVERYWHERE, vmapped), *blocks(EVERYWHERE, DEVICES, 4, 3))


def test_the_vmapped_gradient_of_collectives():
    """vmap of the pullback, where each device's cotangent is one of the batch."""
    fun, xs = together(EVERYWHERE, lambda case: case.fun), blocks(EVERYWHERE, DEVICES, 4, 3)
    ct = random_cotangent(jax.eval_shape(jax.vmap(fun, axis_name="i"), *xs))

    def pull(vjp):
        return jax.vmap(lambda dy, *vs: vjp(fun, *vs)[1](dy), axis_name="i")(ct, *xs)

    assert_close(jax.jit(pull, static_argnums=0)(fb.vjp), jax.jit(pull, static_argnums=0)(jax.vjp), 1e-12)


@pytest.mark.parametrize("across", [on_devices(True), on_devices(False), vmapped], ids=["checked", "unchecked", "vmap"])
def test_what_jax_refuses(across):
    shape = (DEVICES, 4, 3) if across is vmapped else (4 * DEVICES, 3)
    check_numeric(together(REFUSED, across), *blocks(REFUSED, *shape))


def test_what_jax_refuses_unchecked():
    check_numeric(together(REFUSED_UNCHECKED, on_devices(False)), *blocks(REFUSED_UNCHECKED, 4 * DEVICES, 3))


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("extreme", [lax.pmax, lax.pmin], ids=["pmax", "pmin"])
@pytest.mark.parametrize("across", [on_devices(True), on_devices(False), vmapped], ids=["checked", "unchecked", "vmap"])
def test_pmax_and_pmin_share_ties(across, extreme):
    """Of four devices the first and last attain the extreme of the first column, all four that of the second."""
    sign = 1.0 if extreme is lax.pmax else -1.0
    columns = sign * jnp.array([[3.0, 2.0], [1.0, 2.0], [2.0, 2.0], [3.0, 2.0]])  # (device, column)
    x = columns if across is vmapped else columns.reshape(DEVICES, 2)
    fun = across(Case(lambda v: extreme(v, "i"), one_value=True))
    y, pullback = fb.vjp(fun, x)
    ct = random_cotangent(y)
    total = jnp.sum(ct.reshape(-1, 2), axis=0)  # under vmap each device has a copy of the result, and a cotangent
    want = jnp.array([[0.5, 0.25], [0, 0.25], [0, 0.25], [0.5, 0.25]]) * total[None]
    assert_close(pullback(ct)[0], want, 1e-14)


def test_groups_of_pmax_need_unchecked_types():
    """JAX types the result as one value, though it differs from group to group."""
    fun = shard(lambda v: lax.pcast(lax.pmax(v, "i", axis_index_groups=GROUPS), "i", to="varying"), True)
    with pytest.raises(NotImplementedError, match="check_vma=False"):
        fb.vjp(fun, block(4, 3))[1](block(4, 3))


def test_ppermute_of_a_cotangent():
    """Devices that nothing was sent to get zeros, and those that sent nothing get a zero cotangent."""
    fun = jax.vmap(lambda v: lax.ppermute(v, "i", [(0, 1), (1, 2), (2, 3), (3, 0)]), axis_name="i")
    ct = block(DEVICES, 2)
    assert_close(fb.vjp(fun, block(DEVICES, 2))[1](ct)[0], jnp.roll(ct, -1, axis=0), 0)
    part = shard(lambda v: lax.ppermute(v, "i", [(0, 2)]), False)
    dx = fb.vjp(part, block(DEVICES, 2))[1](ct)[0]
    assert_close(dx, jnp.zeros((DEVICES, 2)).at[0].set(ct[2]), 0)


# ---------------------------------------------------------------- several axes


def plane(fun, check, out_specs):
    return jax.shard_map(fun, mesh=PLANE, in_specs=P("a", "b"), out_specs=out_specs, check_vma=check)


SEVERAL_AXES = {
    "psum": (lambda v: lax.psum(v * v, ("a", "b")), P()),
    "psum of psum": (lambda v: lax.psum(jnp.sin(lax.psum(v * v, "a")), "b"), P()),
    "one axis": (lambda v: jnp.sin(lax.psum(v * v, "b")), P("a")),
    "all_gather": (lambda v: jnp.sin(lax.all_gather(v * v, ("a", "b"))), P(("a", "b"))),
    "psum_scatter": (lambda v: jnp.sin(lax.psum_scatter(v * v, ("b", "a"), tiled=True)), P(("a", "b"))),
    "ppermute": (lambda v: jnp.sin(lax.ppermute(v * v, ("a", "b"), [(0, 3), (3, 1), (1, 0)])), P("a", "b")),
}


@pytest.mark.parametrize("checked", [True, False])
def test_collectives_over_several_axes(checked):
    funs = [plane(one, checked, specs) for one, specs in SEVERAL_AXES.values()]
    fun = jax.jit(lambda *xs: [f(x) for f, x in zip(funs, xs, strict=True)])
    check(fun, *blocks(SEVERAL_AXES, 8, 6))


def test_an_axis_name_beside_an_axis_of_the_mesh():
    """One axis becomes a position in the array: psum[axes=('i', 0)]."""

    def both(collective):
        inner = jax.vmap(lambda u: jnp.sin(collective(u * u, ("i", "j"))), axis_name="j")
        return jax.jit(shard(inner, False))

    check(both(lax.psum), block(4 * DEVICES, 3))
    check_numeric(both(lax.pmax), block(4 * DEVICES, 3))


# ---------------------------------------------------------------- reduced and unreduced values


def varying(v, axis="a"):
    return lax.pcast(v, axis, to="varying")


TERMS = {
    "reduced to varying": (lambda v, w: v * varying(lax.pcast(w, "a", to="reduced")), (P("a"), P()), P("a")),
    "gathered to reduced": (
        lambda v, w: v @ varying(lax.all_gather(w * w, "a", tiled=True, to="reduced")), (P("a"), P("a")), P("a"),
    ),
    "scattered from terms": (
        lambda v, w: lax.psum_scatter(lax.pcast(v * v, "a", to="unreduced"), "a", scatter_dimension=1, tiled=True)
        * jnp.sum(w), (P("a"), P()), P("a"),
    ),
    "sum of terms": (lambda v, w: w[:1] * lax.psum(lax.pcast(v * v, "a", to="unreduced"), "a"), (P("a"), P()), P()),
}  # fmt: skip


def test_reduced_and_unreduced_values():
    mesh = jax.make_mesh((2,), ("a",), devices=jax.devices()[:2], axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):

        def fun(v, w):
            out = {}
            for name, (one, in_specs, out_specs) in TERMS.items():
                args = [jax.reshard(x, spec) for x, spec in zip((v, w), in_specs, strict=True)]
                out[name] = jnp.sin(jax.shard_map(one, in_specs=in_specs, out_specs=out_specs)(*args))
            return out

        v, w = jax.device_put((block(2, 4), block(4, 4, seed=1)), jax.NamedSharding(mesh, P()))
        check_vjp(jax.jit(fun), v, w, dtypes=("float64",), batched=False)


# ---------------------------------------------------------------- primitives that the CPU does not run


def test_pbroadcast_vjp():
    """The rules alone: y_e = x_2 for every e, so dx_2 is the sum of all dy."""
    dy = block(DEVICES, 3)
    want = jnp.zeros((DEVICES, 3)).at[2].set(jnp.sum(dy, axis=0))
    fixed = jax.vmap(lambda ct: pbroadcast_vjp(ct, axis_name=("i",), source=2), axis_name="i")
    dynamic = jax.vmap(lambda ct: pbroadcast_dynamic_vjp(ct, jnp.int32(2), axis_name="i"), axis_name="i")
    assert_close(fixed(dy), want, 1e-14)
    assert_close(dynamic(dy), want, 1e-14)


def exchange_ragged(x, into, starts, sizes, places, received, *, axis_name, axis_index_groups=None):
    """What `lax.ragged_all_to_all` does, by gathering all that there is. `received` is implied."""
    xs, starts, sizes, places = (lax.all_gather(v, axis_name) for v in (x, starts, sizes, places))
    me, rows = lax.axis_index(axis_name), jnp.arange(into.shape[0], dtype=sizes.dtype)
    for sender in range(xs.shape[0]):
        offset = rows - places[sender, me]
        written = (offset >= 0) & (offset < sizes[sender, me])
        sent = xs[sender][jnp.clip(starts[sender, me] + offset, 0, x.shape[0] - 1)]
        into = jnp.where(written[:, None], sent, into)
    return into


def test_ragged_all_to_all_vjp(monkeypatch):
    """The rules over an exchange spelt out in collectives that the CPU has, against that one's own gradient.

    Two parts start in the same row of `into`, one of them empty."""
    sizes = jnp.array([[1, 2], [0, 3]], "int32")  # (from, to)
    starts = jnp.array([[4, 1], [0, 0]], "int32")
    places = jnp.array([[2, 0], [2, 3]], "int32")
    args = (starts, sizes, places, sizes.T)

    def across(fun):
        return jax.vmap(fun, axis_name="i")

    x, into, dy = block(2, 5, 3), block(2, 7, 3, seed=1), block(2, 7, 3, seed=2)
    exchange = across(lambda *xs: exchange_ragged(*xs, axis_name="i"))
    want = jax.vjp(lambda x, into: exchange(x, into, *args), x, into)[1](dy)
    monkeypatch.setattr(lax, "ragged_all_to_all", exchange_ragged)
    aval = jax.typeof(x[0])
    got = (
        across(lambda ct, *rest: ragged_all_to_all_vjp_x(ct, aval, *rest, axis_name="i"))(dy, *args),
        across(lambda ct, _s, _n, to, n: ragged_all_to_all_vjp_into(ct, to, n, axis_name="i"))(dy, *args),
    )
    assert_close(got, want, 1e-14)


# ---------------------------------------------------------------- accuracy, and that the check can fail


def test_sums_over_devices_accumulate_in_float32():
    """A weight on every device, in bfloat16: its cotangents are added up in float32 and rounded once."""
    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
    x = block(8, 4096).astype("bfloat16")
    w = block(4096, seed=1).astype("bfloat16")
    terms = np.asarray(x, "float64") * 1.0  # what each device hands in for d/dw Σ w·x, exactly
    exact = terms.sum(0)

    def error(gradient):
        return np.linalg.norm(np.asarray(gradient, "float64") - exact) / np.linalg.norm(exact)

    for checked in (True, False):
        fun = jax.shard_map(
            lambda v, w: lax.psum(jnp.sum(v[0] * w), "i"), mesh=mesh, in_specs=(P("i"), P()), out_specs=P(),
            check_vma=checked,
        )  # fmt: skip
        ours, jaxs = (error(jax.jit(grad(fun, argnums=1))(x, w)) for grad in (fb.grad, jax.grad))
        assert ours <= 2**-9, (ours, jaxs)  # half a unit of the last place
        assert ours <= 1.001 * jaxs, (ours, jaxs)


def test_a_wrong_rule_is_found(plant):
    """Planted: psum's cotangent passed on as it is."""
    plant("psum")

    @vjp_rule("psum")
    def psum_vjp(dy):
        return dy

    cases = {name: EVERYWHERE[name] for name in ("all_gather", "psum")}
    with pytest.raises(AssertionError, match=r"vjp\[1\]"):
        check(together(cases, on_devices(False)), *blocks(cases, 4 * DEVICES, 3))
