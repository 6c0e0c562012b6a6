"""Gradients on a mesh with explicit axes: each cotangent has the type that JAX's own would have.

A type says how a value lies: divided along an axis, *unreduced* (given by its terms, one a device) or *reduced* (a
value whose cotangent is unreduced). Every form of every case is compared with `jax.grad` in type and value, wherever
JAX has a gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnbackprop as fb

from ..checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")


class Case(NamedTuple):
    """A function, and the shape and placement of each operand."""

    fun: Callable
    operands: tuple[tuple[tuple[int, ...], Any], ...]


def case(fun, *operands):
    return Case(fun, operands)


ROWS, BOTH, COLUMNS = P("x", None), P("x", "y"), P(None, "y")
REDUCED, TERMS = P(reduced={"x"}), P(unreduced={"x"})
A, B = (8, 4), (4, 2)


def one_reduced():
    """The factor beside an unreduced one."""
    return jax.reshard(jnp.float64(2), P(reduced={"x"}))


def layer(x, w):
    return jnp.tanh(x @ w)


@jax.custom_vjp
def product(x, y):
    return x * y


product.defvjp(lambda x, y: (x * y, (x, y)), lambda kept, dz: (dz * kept[1], None))


@jax.custom_jvp
def half(x, y):
    return jnp.sin(x) + 0 * y


half.defjvp(lambda primals, tangents: (half(*primals), jnp.cos(primals[0]) * tangents[0]))


DIVIDED = {
    "broadcast from a unit axis": case(lambda a, b: a * b, ((1, 4), COLUMNS), (A, BOTH)),
    "broadcast along a divided axis": case(lambda a, b: a * b, ((8, 1), ROWS), (A, BOTH)),
    "bias": case(lambda a, b: a[None] + b, ((4,), P("y")), (A, BOTH)),
    "replicated beside divided": case(lambda a, b: a * b, (A, P()), (A, BOTH)),
    "scalar": case(lambda a, b: a * b, ((), P()), (A, BOTH)),
    "angle to a scalar": case(jnp.arctan2, (A, BOTH), ((), P())),
    "no-op broadcast": case(lambda a: lax.broadcast_in_dim(a, A, (0, 1), out_sharding=BOTH), (A, P())),
    "split, one part unused": case(lambda a: jnp.split(a, 2, axis=1)[0], (A, ROWS)),
    "split, one part unused, divided": case(lambda a: jnp.split(a, 2, axis=1)[0], ((8, 8), BOTH)),
    "concatenate": case(lambda a, b: jnp.concatenate([a, b], 1), (A, ROWS), (A, ROWS)),
    "tile": case(lambda a: jnp.tile(a, (1, 2)), (A, ROWS)),
    "tile of the divided": case(lambda a: jnp.tile(a, (2, 1)), (B, COLUMNS)),
    "reshape": case(lambda a: lax.reshape(a, (2, 4, 4), out_sharding=P("x", None, "y")), (A, BOTH)),
    "padding": case(lambda a, v: lax.pad(a, v, [(0, 0, 0), (1, -1, 1)]), (A, ROWS), ((), P())),
    "pad": case(lambda a: lax.pad(a, 1.0, [(0, 0, 0), (1, 1, 0)]), (A, ROWS)),
    "slice": case(lambda a: a[:, 1:3], (A, ROWS)),
    "dynamic_slice": case(lambda a: lax.dynamic_slice(a, (0, 1), (8, 2)), (A, ROWS)),
    "dynamic_update_slice": case(
        lambda a, b: lax.dynamic_update_slice(a, b, (0, 1)), (A, ROWS), ((8, 2), ROWS)
    ),
    "update of the replicated": case(
        lambda a, b, c: lax.dynamic_update_slice(a, b, (1,)) + c, ((8,), P()), ((4,), P()), ((8,), P("x"))
    ),
    "gather": case(lambda a: a.at[:, jnp.array([0, 2, 2])].get(out_sharding=ROWS), (A, ROWS)),
    "gather by divided indices": case(
        lambda a: a.at[jax.reshard(jnp.arange(6) % 3, P("x"))].get(out_sharding=ROWS), (B, COLUMNS)
    ),
    "scatter-add": case(lambda a, b: a.at[:, jnp.array([0, 2])].add(b), (A, ROWS), ((8, 2), ROWS)),
    "max over rows": case(lambda a: jnp.max(a, 1), (A, ROWS)),
    "any reduction": case(lambda a: lax.reduce(a, jnp.float64(1), lambda x, y: x * y, (0,)), (A, COLUMNS)),
    "cumsum": case(lambda a: jnp.cumsum(a, 1), (A, ROWS)),
    "cumprod": case(lambda a: jnp.cumprod(a, 1), (A, ROWS)),
    "cummax": case(lambda a: lax.cummax(a, 1), (A, ROWS)),
    "cumlogsumexp": case(lambda a: lax.cumlogsumexp(a, 1), (A, ROWS)),
    "top_k": case(lambda a: lax.top_k(a, 2)[0], (A, ROWS)),
    "softmax": case(lambda a: jax.nn.softmax(8 * a, axis=1), (A, BOTH)),
    "normalize": case(lambda a: (a - a.mean(1, keepdims=True)) / jnp.sqrt(a.var(1, keepdims=True) + 1e-5), (A, ROWS)),
    "convolution": case(lambda a, k: lax.conv(a, k, (1,), "SAME"), ((8, 4, 6), P("x")), ((4, 4, 3), P())),
    "pooling": case(lambda a: lax.reduce_window(a, -jnp.inf, lax.max, (1, 2), (1, 2), "VALID"), (A, ROWS)),
    "solve": case(
        lambda a, b: jnp.linalg.solve(a + 3 * jnp.eye(4), b), ((8, 4, 4), P("x")), ((8, 4, 2), P("x"))
    ),
    "reshard": case(lambda a: jax.reshard(jnp.tanh(jax.reshard(a, P("y", "x"))), ROWS), (A, BOTH)),
    "where": case(lambda a, b: jnp.where(a > b, a, b), (A, BOTH), (A, BOTH)),
    "vmap": case(lambda a, b: jax.vmap(lambda a: jnp.sin(a) @ b)(a), (A, ROWS), (B, COLUMNS)),
    "vmap, shared": case(lambda a, b: jax.vmap(lambda a: jnp.sin(a) * b)(a), (A, BOTH), ((4,), P("y"))),
    "vmap, gather within": case(
        lambda a: jax.vmap(lambda row: row.at[jnp.array([0, 2])].get(out_sharding=P("y")))(a), (A, ROWS)
    ),
    "checkpoint, one unused": case(
        lambda a, b: jax.checkpoint(lambda a, b: (jnp.sin(a), b * b))(a, b)[0], (A, BOTH), (A, BOTH)
    ),
    "cond, an operand of one branch": case(
        lambda a, b: lax.cond(True, lambda a, b: jnp.sin(a) * a, lambda a, b: b * b, a, b), (A, BOTH), (A, BOTH)
    ),
    "scan, invariant": case(
        lambda a, b: lax.scan(lambda c, _: (c * a, c), b, None, length=3), (A, BOTH), (A, BOTH)
    ),
    "scan, carry unused": case(
        lambda a, b: lax.scan(lambda c, w: (c * w, c), b, a)[1], ((3, *A), P(None, "x", "y")), (A, BOTH)
    ),
    "scan, weight": case(
        lambda w, x: lax.scan(lambda c, _: (layer(c, w), None), x, None, length=3)[0], ((4, 4), P()), (A, ROWS)
    ),
    "custom_vjp, None": case(product, (A, BOTH), (A, BOTH)),
    "custom_jvp": case(half, (A, BOTH), (A, BOTH)),
    "unused": case(lambda a, b: a, (A, BOTH), (A, BOTH)),
    "shard_map": case(
        lambda a: jax.shard_map(
            lambda v: lax.psum(jnp.sin(v), "y"), in_specs=BOTH, out_specs=P("x"), axis_names={"x", "y"}
        )(a),
        (A, BOTH),
    ),
}  # fmt: skip


def of_both(name, fun, *shapes):
    """The function of reduced and of unreduced operands."""
    return {
        f"{name} of {kind}": Case(fun, tuple((shape, spec) for shape in shapes))
        for kind, spec in (("reduced", REDUCED), ("unreduced", TERMS))
    }


LINEAR = {
    **of_both("add", lax.add, B, B),
    **of_both("sum of one value", lambda a: a + a, B),
    **of_both("concatenate", lambda a, b: jnp.concatenate([a, b]), B, B),
    **of_both("split", lambda a: [y * one_reduced() for y in lax.split(a, (1, 3))], B),
    **of_both("split, one part unused", lambda a: lax.split(a, (1, 3))[0], B),
    **of_both("slice", lambda a: lax.slice(a, (1, 0), (3, 2)), B),
    **of_both("strided slice", lambda a: lax.slice(a, (1, 0), (4, 2), (2, 1)), B),
    **of_both("dynamic_update_slice", lambda a, b: lax.dynamic_update_slice(a, b, (1, 0)), B, (2, 2)),
    **of_both("dynamic_slice", lambda a: lax.dynamic_slice(a, (1, 0), (2, 2)), B),
    **of_both("reshape", lambda a: lax.reshape(a, (2, 4)), B),
    **of_both("transpose", lambda a: a.T, B),
    **of_both("squeeze", lambda a: lax.squeeze(a[:, :1], (1,)), B),
    **of_both("expand_dims", lambda a: lax.expand_dims(a, (1,)), B),
    **of_both("broadcast", lambda a: lax.broadcast(a, (3,)), B),
    **of_both("reduce_sum", lambda a: jnp.sum(a, 0), B),
    **of_both("reduce_sum of all", lambda a: jnp.sum(a), B),
    **of_both("select", lambda a, b: lax.select(True, a, b), B, B),
    **of_both("select or zeros", lambda a: lax.select(True, a, jnp.zeros_like(a)), B),
    **of_both("cast", lambda a: a.astype(jnp.float32), B),
    **of_both("unused", lambda a, b: a, B, B),
    **of_both("cond", lambda a, b: lax.cond(True, lambda a, b: a, lambda a, b: b, a, b), B, B),
    **of_both("scan", lambda a: lax.scan(lambda c, _: (c + c, None), a, None, length=3)[0], B),
}
REDUCED_OR_TERMS = {
    "product of terms": case(lax.mul, (B, TERMS), (B, REDUCED)),
    "product with terms": case(lax.mul, (B, REDUCED), (B, TERMS)),
    "sine": case(lambda a: jnp.sin(a) * a, (B, REDUCED)),
    "silu": case(jax.nn.silu, (B, REDUCED)),
    "by a quotient, a number or a sign": case(
        lambda a: lax.sqrt(a) + lax.rsqrt(a) * lax.erfc(a) + lax.acos(a) * lax.atan2(a, lax.exp(a)), (B, REDUCED)
    ),
    "by a half": case(
        lambda a, b: lax.max(a, b) + jnp.clip(a, 0.3, 0.6), (B, REDUCED), (B, REDUCED)
    ),
    "broadcast to a divided axis": case(
        lambda a: lax.broadcast_in_dim(jnp.exp(a), (2, *B), (1, 2), out_sharding=P("x")), (B, REDUCED)
    ),
    "weight": case(lambda x, w: jnp.sin(x) @ jnp.exp(w), (A, ROWS), ((4, 4), REDUCED)),
    "weight on the left": case(lambda w, x: jnp.exp(w) @ jnp.sin(x), (B, REDUCED), ((2, 8), P(None, "x"))),
    "weight with batch": case(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b), ((2, 4, 4), P(None, "x")), ((2, 4, 2), REDUCED)
    ),
    "einsum to terms": case(
        lambda a, b: jax.reshard(jnp.einsum("xy,yz->xz", a, b, out_sharding=P("x", unreduced={"y"})), ROWS),
        ((8, 2), BOTH), ((2, 8), P("y", None)),
    ),
    "sum to terms": case(
        lambda a: jax.reshard(lax.reduce_sum(a * a, (0,), out_sharding=P(None, unreduced={"x"})), P()), (A, ROWS)
    ),
    "embedding": case(
        lambda a: a.at[jax.reshard(jnp.arange(4) % 3, P("x"))].get(out_sharding=ROWS), (B, REDUCED)
    ),
    "divided after": case(lambda a: jax.reshard(jnp.sin(a), ROWS), (B, REDUCED)),
    "layers": case(
        lambda w, x: lax.scan(lambda c, w: (layer(c, w), None), x, w)[0], ((3, 4, 4), REDUCED), (A, ROWS)
    ),
    "one layer, three times": case(
        lambda w, x: lax.scan(lambda c, _: (layer(c, w), None), x, None, length=3)[0], ((4, 4), REDUCED), (A, ROWS)
    ),
    "fori_loop": case(lambda w, x: lax.fori_loop(0, 3, lambda _, c: layer(c, w), x), ((4, 4), REDUCED), (A, ROWS)),
    "custom_jvp": case(half, (B, REDUCED), (B, REDUCED)),
}  # fmt: skip
CASES = DIVIDED | {f"reduced: {name}": c for name, c in (LINEAR | REDUCED_OR_TERMS).items()}


def mesh():
    return jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4], axis_types=(AxisType.Explicit,) * 2)


def loss_of(fun):
    """A scalar in which every element of every result has a cotangent of its own."""

    def loss(*xs):
        leaves = [jax.reshard(y, P()) for y in jax.tree.leaves(fun(*xs))]
        return sum(jnp.sum(jnp.sin(y.astype(float) * (1 + i))) for i, y in enumerate(leaves))

    return loss


FORMS = {
    "jit": lambda fun: fun,
    "checkpoint": jax.checkpoint,
    "cond": lambda fun: lambda *xs: lax.cond(True, fun, fun, *xs),
    "second order": None,
}
# Of the cases, how many at least JAX has a gradient of: a form that traced none would show nothing.
FEWEST = 80


def gradient_of(lib, fun, count):
    return lib.grad(loss_of(fun), argnums=tuple(range(count)))


def operands_of(case, lead=(), seed=0):
    rng = np.random.default_rng(seed)
    return [
        jax.reshard(jnp.asarray(rng.uniform(0.2, 0.9, size=(*lead, *shape))), stacked(spec, lead))
        for shape, spec in case.operands
    ]


def stacked(spec, lead):
    return P(*[None] * len(lead), *spec.partitions, unreduced=spec.unreduced, reduced=spec.reduced)


def in_form(form, lib, case):
    """(gradient, operands) of a case in one form."""
    count = len(case.operands)
    if form == "second order":
        first = gradient_of(lib, case.fun, count)
        return gradient_of(lib, first, count), operands_of(case)
    return gradient_of(lib, FORMS[form](case.fun), count), operands_of(case)


def traced(form, lib, case):
    gradient, operands = in_form(form, lib, case)
    return jax.make_jaxpr(gradient)(*operands), operands


def jax_has(form):
    """The gradients that JAX has in this form, traced, by case."""
    found = {}
    for name, each in CASES.items():
        try:
            found[name] = traced(form, jax, each)
        except Exception:  # JAX has no rule for what it would have to emit; it says so by errors of many types
            continue
    return found


def values_of(traces):
    """All gradients, compiled at once, as arrays that every device holds."""

    def run(operands):
        outs = {name: jaxpr_as_fun(closed)(*operands[name]) for name, (closed, _) in traces.items()}
        return {name: [jax.reshard(out, P()) for out in found] for name, found in outs.items()}

    return jax.jit(run)({name: operands for name, (_, operands) in traces.items()})


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form):
    """Ours has a gradient wherever JAX has one, of the same type and value."""
    with jax.set_mesh(mesh()):
        theirs = jax_has(form)
        assert len(theirs) >= FEWEST
        ours = {name: traced(form, fb, CASES[name]) for name in theirs}
        for name, (closed, _) in theirs.items():
            types = [[str(aval) for aval in jaxpr.out_avals] for jaxpr in (ours[name][0], closed)]
            assert types[0] == types[1], name
        assert_close(values_of(ours), values_of(theirs), 1e-9)


def test_a_number_read_by_a_region_in_another_mode():
    """A Python number has no mesh, and its cotangent comes out of a region in which the mesh is in another mode."""

    def power(lib):
        def fun(factor, x):
            model = jax.sharding.auto_axes(lambda x: factor * x, out_sharding=P())
            return lax.scan(lambda c, _: (model(c), None), x, None, length=3)[0]

        return jax.jit(lib.grad(fun, argnums=(0, 1)))(1.5, 2.0)

    with jax.set_mesh(mesh()):
        assert_close(power(fb), (jnp.float64(3 * 1.5**2 * 2), jnp.float64(1.5**3)), 1e-12)
        assert_close(power(fb), power(jax), 1e-12)


def roots(a):
    """Newton's cube roots, each with its own number of steps."""

    def root(a):
        return lax.while_loop(lambda x: abs(x**3 - a) > 1e-9, lambda x: x - (x**3 - a) / (3 * x**2), a)

    return jnp.sum(jax.vmap(root)(a))


def test_a_batched_loop_over_divided_examples():
    """Examples that lie on several devices; the first one takes no step."""
    a = jnp.array([1.0, 9.0, 3.0, 5.0])
    with jax.set_mesh(mesh()):
        found = jax.jit(fb.grad(roots))(jax.reshard(a, P("x")))
        assert str(found.aval) == "float64[4@x]"
        assert_close(found, (a ** (-2 / 3) / 3).at[0].set(1.0), 1e-8)
