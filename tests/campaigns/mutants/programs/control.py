"""Calls, loops, devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.scheduling_groups import xla_metadata_call
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from .operands import distinct, inside, normal
from .table import add

# fmt: off
# ---------------------------------------------------------------- calls


@jax.custom_jvp
def own_jvp(x, y):
    return jnp.sin(x) * y, x + y


own_jvp.defjvp(lambda p, t: (own_jvp(*p), (t[0] * jnp.cos(p[0]) * p[1] + jnp.sin(p[0]) * t[1], t[0] + t[1])))


@jax.custom_vjp
def own_vjp(x, y):
    return jnp.sin(x) * y, x * y


own_vjp.defvjp(
    lambda x, y: (own_vjp(x, y), (x, y)),
    lambda xy, ct: (ct[0] * jnp.cos(xy[0]) * xy[1] + ct[1] * xy[1], ct[0] * jnp.sin(xy[0]) + ct[1] * xy[0]),
)


through = jax.custom_jvp(lambda x, y: own_vjp(x, y))
through.defjvp(lambda primals, tangents: jax.jvp(own_vjp, primals, tangents))


def wave(x, y):
    return jnp.sin(x) * y, jnp.tanh(x * y) + x, jnp.cos(y)


PAIR = normal(3), normal(3, seed=1)
add("jit", jax.jit(wave), *PAIR)
add("jit", jax.jit(lambda x, y: (lax.sin(x), y)), *PAIR)
add("custom_jvp_call", own_jvp, *PAIR)
add("custom_jvp_call", lambda x: own_jvp(x, x), PAIR[0])
add("custom_vjp_call", own_vjp, *PAIR)
add("custom_lin", through, *PAIR)
add("custom_lin", lambda x: through(x, PAIR[1]), PAIR[0])
doubled = jax.custom_jvp(lambda x: 2 * x)  # by its own rule 3x
doubled.defjvp(lambda p, t: (doubled(*p), 3 * t[0]))
by_doubled = jax.custom_jvp(jnp.sin)
by_doubled.defjvp(lambda p, t: (jnp.sin(p[0]), doubled(t[0] * jnp.cos(p[0]))))
add("custom_jvp_call", by_doubled, PAIR[0])
add("remat2", jax.checkpoint(wave), *PAIR)
add("remat2", jax.checkpoint(lambda x, y: jnp.sin(x @ y) @ y, policy=jax.checkpoint_policies.dots_saveable),
    normal(3, 3), normal(3, 3, seed=1))
for _index in (0, 1):
    add("cond", lambda x, y, k=_index: lax.cond(jnp.sum(x) * 0 + k > 0.5, wave,
        lambda x, y: (x, y, x * y), x, y), *PAIR)
_costly = [lambda x: jnp.tanh(jnp.tanh(x @ x) @ x), lambda x: jnp.sort(x, 1) * jnp.exp(x), lambda x: 2 * x]
for _index in (0, 1):
    add("cond", lambda x, k=_index: lax.switch(k + jnp.sum(x).astype(int) * 0, _costly, x), normal(3, 3))
add("cond", jax.checkpoint(lambda x: lax.switch(1 + jnp.sum(x).astype(int) * 0, _costly[::-1], x),
    policy=jax.checkpoint_policies.dots_saveable), normal(3, 3))
add("cond", lambda x: lax.platform_dependent(x, cpu=_costly[0], default=lambda x: jnp.sin(x @ x)), normal(3, 3))
add("composite", lax.composite(wave, "test.wave"), *PAIR)
add("xla_metadata_call", xla_metadata_call(wave, tag="a"), *PAIR)
_batched = jax.custom_batching.custom_vmap(wave)
_batched.def_vmap(lambda size, batched, x, y: (wave(x, y), (True,) * 3))
add("custom_vmap_call", _batched, *PAIR)
add("linear_call", lambda r, x: jax.custom_derivatives.linear_call(
    lambda r, x: x * jnp.sin(r), lambda r, ct: ct * jnp.sin(r), r, x), *PAIR)

# ---------------------------------------------------------------- loops


def recurrence(c, x, w):
    return jax.tree.map(jnp.tanh, c @ w + x)


for _reverse in (False, True):
    add("scan", lambda c, xs, w, r=_reverse: lax.scan(
        lambda c, x: (recurrence(c, x, w), jnp.sin(c) * x), c, xs, reverse=r), normal(3), normal(4, 3),
            normal(3, 3, seed=1))
add("scan", lambda c, w: lax.scan(lambda c, _: ((c[0] * c[1], c[1] + w), c[0]), (c, c), None, length=3),
    normal(3), normal(3, seed=1))
add("scan", lambda c, xs: lax.scan(lambda c, x: (c + x, x * x), c, xs, unroll=2)[1], normal(2), normal(4, 2))
add("scan", lambda c, w: lax.scan(lambda c, _: (jnp.sin(c * w), c * w), c, None, length=3)[1],
    normal(3), normal(3, seed=1))
add("scan", lambda c, w: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c * w) + i, c), normal(3), normal(3, seed=1))
add("scan", lambda xs, v, w: lax.scan(lambda _, x: (v * w * x, 2.0 * PAIR[0]), PAIR[0], xs), normal(4, 3),
    normal(3, seed=1), normal(3, seed=2))
add("while", lambda x, w: lax.while_loop(  # the cotangent of the second carry comes through the third
    lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1] * w), s[2] + s[1]), (0, x, x))[2],
    normal(3), normal(3, seed=1))
add("while", lambda x: lax.while_loop(lambda s: jnp.sum(s[1]) > 0.1, lambda s: (s[0] + 1, s[1] / 2), (0.0, x)),
    np.float32([0.5, 0.6]))
add("while", lambda x: x + lax.while_loop(lambda s: s < jnp.sum(x), lambda s: s + 1, 0.0), np.float32([0.5, 1.6]))
add("while", lambda c, w: lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.sin(s[1] * w)), (0, c))[1],
    normal(3), normal(3, seed=1))
add("while", lambda c, w: lax.while_loop(
    lambda s: s[0] < 70, lambda s: (s[0] + 1, jnp.tanh(s[1] * w) + c), (0, c))[1], inside(2), inside(2, seed=1))
add("while", lambda c, w: lax.while_loop(  # the first step counts as much as the last
    lambda s: s[0] < 71, lambda s: (s[0] + 1, s[1] + jnp.sin(s[1] * w) / 50), (0, c))[1], inside(2), inside(2, seed=1))

# under vmap, each example with its own number of steps n, after which the body is singular


def stepwise(body, n, x):
    return lax.while_loop(lambda s: s[1] < n, lambda s: (body(s[0], n - s[1]), s[1] + 1), (x, 0))[0]


def halves(x, left):
    return jnp.concatenate(jnp.split(x, 2)[::-1]) * jnp.sqrt(left.astype(x.dtype))


OWN = np.int32([2, 0, 3])
add("while", lambda w, x: jax.vmap(lambda n, x: stepwise(  # w is shared, and has as many rows as there are examples
    lambda x, left: jnp.tanh(w @ x) + x / left, n, x))(OWN, x), normal(3, 3), normal(3, 3, seed=1))
add("while", lambda w, x: jax.vmap(lambda n, x: stepwise(  # a product with a matrix that is not finite once it is done
    lambda x, left: jnp.tanh((w / left) @ x), n, x))(OWN, x), normal(3, 3), normal(3, 3, seed=1))
add("while", lambda b, x: jax.vmap(lambda n, b, x: stepwise(  # sqrt(x - b) is not finite at another's b
    lambda x, left: b + jnp.sqrt(x - b) + 0.1 / left, n, x))(OWN, b, x),
    np.float32([1, 5, 2]), np.float32([1.5, 5.5, 3]))
add("while", lambda w, x: jax.vmap(lambda n, x: stepwise(
    lambda x, left: halves(x * w, left) + x, n, x))(OWN, x), normal(4), normal(3, 4, seed=1))
add("while", lambda w, x: jax.vmap(lambda n, x: stepwise(  # the examples depend on each other
    lambda x, left: jnp.tanh(w * x + lax.psum(x, "i") / 3), n, x), axis_name="i")(OWN, x), normal(2), normal(3, 2))
add("while", lambda w, x: jax.vmap(lambda n, m, x: lax.while_loop(  # two constants of the condition
    lambda s: (s[0] < n) & (jnp.sum(s[1]) < m), lambda s: (s[0] + 1, jnp.tanh(w * s[1] + lax.psum(s[1], "i") / 3)),
    (0, x)), axis_name="i")(OWN, np.float32([9, 9, 8]), x)[1], normal(2), normal(3, 2))
add("while", lambda w, x: jax.vmap(lambda n, x: stepwise(
    lambda x, left: (jax.debug.callback(lambda x: None, x), jnp.tanh(w * x))[1], n, x))(OWN, x),
    normal(2), normal(3, 2))

# ---------------------------------------------------------------- devices


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((2,), ("i",), devices=jax.devices()[:2], axis_types=(kind,))


def sharded(function, check=True, one_value=False, count=1):
    out = P() if one_value else P("i")
    return jax.shard_map(function, mesh=mesh(), in_specs=(P("i"),) * count, out_specs=out, check_vma=check)


add("jit", jax.jit(lambda x, y: jnp.tanh(jnp.sin(x @ y) @ y) * x + y), normal(3, 3), normal(3, 3, seed=1))
add("jit", lambda x: jax.jit(lambda x: jnp.sin(x) * x, in_shardings=jax.NamedSharding(mesh(), P("i")),
                             out_shardings=jax.NamedSharding(mesh(), P("i")))(x), normal(4))
add("jit", lambda x, y: jax.jit(lambda x, y: jnp.sin(x) * y, in_shardings=(jax.NamedSharding(mesh(), P("i")), None))(
    x, y), normal(4), normal(4, seed=1))
COLLECTIVES = [
    ("psum", lambda v: lax.psum(v, "i"), True),
    ("pmax", lambda v: lax.pmax(v, "i"), True),
    ("pmin", lambda v: lax.pmin(v, "i"), True),
    ("all_gather", lambda v: lax.all_gather(v, "i", axis=1), False),
    ("all_gather", lambda v: lax.all_gather(v, "i", axis=0, tiled=True), False),
    ("reduce_scatter", lambda v: lax.psum_scatter(v, "i"), False),
    ("reduce_scatter", lambda v: lax.psum_scatter(v.T, "i", scatter_dimension=1, tiled=True), False),
    ("ppermute", lambda v: lax.ppermute(v, "i", [(0, 1), (1, 0)]), False),
    ("ppermute", lambda v: lax.ppermute(v, "i", [(0, 1)]), False),
    ("all_to_all", lambda v: lax.all_to_all(v, "i", 0, 1, tiled=True), False),
]
for _primitive, _function, _one in COLLECTIVES:
    add(_primitive, sharded(_function, False, _one), distinct(4, 2))
add("psum_invariant pvary", sharded(lambda v: jnp.exp(v) / lax.psum(jnp.exp(v), "i")), normal(4, 2))
add("psum_invariant", sharded(lambda v: lax.psum(v * v, "i"), one_value=True), normal(4, 2))
add("pmax pmin", sharded(lambda v: lax.pmax(v, "i") + lax.pmin(v * v, "i"), one_value=True), distinct(4, 2))
add("pmax pmin", sharded(lambda v: lax.pmax(v, "i") + 2 * lax.pmin(v, "i"), False, True), np.float32([[1, 2], [1, 3]]))
for _tiled in (True, False):
    for _check in (True, False):
        add("all_gather_invariant", sharded(lambda v, t=_tiled: lax.all_gather(
            v, "i", axis=1, tiled=t, to="invarying"), _check, True), normal(4, 2))
add("shard_map", lambda v, w: jax.shard_map(
    lambda v, w: jnp.tanh(jnp.sin(v) @ w), mesh=mesh(), in_specs=(P("i"), P()), out_specs=P("i"))(v, w),
    normal(4, 3), normal(3, 3, seed=1))
add("shard_map", lambda v, w: jax.shard_map(
    lambda v, w: lax.psum(jnp.sin(v @ w), "i"), mesh=mesh(), in_specs=(P("i"), P()), out_specs=P(),
        check_vma=False)(v, w),
    normal(4, 3), normal(3, 3, seed=1))
add("shard_map", lambda v, w: jax.shard_map(
    lambda v, w: jnp.tanh(v @ w) @ w, mesh=mesh(), in_specs=(P("i"), P()), out_specs=P("i"))(v, w),
    normal(4, 3), normal(3, 3, seed=1))


add("reduce_window", sharded(lambda v: lax.reduce_window(v, np.ones((), v.dtype), lax.mul, (1, 2), (1, 1), "VALID")),
    normal(4, 2))


def until_small(w, x):
    """Each device goes on until its own numbers are small; the counter's type says that they agree on it."""
    return lax.while_loop(
        lambda s: (s[0] < 5) & (jnp.sum(s[1]) > 0.7), lambda s: (s[0] + 1, jnp.sin(w * s[1])), (0, x))[1]


def branching(w, x):
    return lax.while_loop(lambda x: jnp.sum(x) > 0.2, lambda x: lax.cond(
        jnp.sum(x) > 1, lambda x: jnp.sin(w * x) / 2, lambda x: x / (1 + w), x), x)


def each_until_small(w, x):
    def one(x):
        count, x = lax.while_loop(lambda s: (s[0] < 5) & (s[1] > 0.3), lambda s: (s[0] + 1, jnp.sin(w * s[1])), (0, x))
        return x + count

    return jax.vmap(one)(x)


def agreeing(w, x):
    """The devices agree on the first carry, which counts."""
    count, x = lax.while_loop(
        lambda s: (s[0] < 2.5) & (jnp.sum(s[1]) < 9), lambda s: (s[0] + w, jax.checkpoint(jnp.sin)(w * s[1])), (w, x))
    return count * x


for _loop in (until_small, branching, each_until_small, agreeing):
    add("while", lambda w, x, f=_loop: jax.shard_map(f, mesh=mesh(), in_specs=(P(), P("i")), out_specs=P("i"))(w, x),
        np.float32(0.8), np.float32([0.9, 0.7, 0.4, 0.5]))
add("sharding_constraint", lambda x: lax.with_sharding_constraint(x, jax.NamedSharding(mesh(), P("i"))), normal(4))
add("layout_constraint", lambda x: with_layout_constraint(x, Layout((1, 0))), normal(2, 3))
add("device_put", lambda x: jax.device_put(x), normal(3))
