"""Views of equations: evaluated from their named groups, they give what the equation gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from fnbackprop.jaxprs.evaluate import as_function, bind
from fnbackprop.jaxprs.views import Call, Cond, Scan, ShardMap, While

X = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)


def equation_of(fun, *args):
    """The last equation of a function, and the values that its operands have."""
    closed = jax.make_jaxpr(fun)(*args)
    jaxpr, env = closed.jaxpr, {}
    env.update(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for equation in jaxpr.eqns:
        values = [atom.val if hasattr(atom, "val") else env[atom] for atom in equation.invars]
        env.update(zip(equation.outvars, bind(equation, values), strict=True))
    return equation, values, [env[v] for v in equation.outvars]


def assert_equal(got, want):
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)


def marked(x):
    return jnp.sin(x) * 2 + x


@jax.custom_jvp
def with_jvp(x):
    return marked(x)


with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), tangents[0]))


@jax.custom_vjp
def with_vjp(x):
    return marked(x)


with_vjp.defvjp(lambda x: (with_vjp(x), None), lambda _, dy: (dy,))
with_vmap = jax.custom_batching.custom_vmap(marked)
with_vmap.def_vmap(lambda size, batched, x: (marked(x), True))


@pytest.mark.parametrize(
    "fun",
    [jax.jit(marked), jax.checkpoint(marked), with_jvp, with_vjp, with_vmap, lax.composite(marked, name="my.marked")],
    ids=["jit", "remat", "custom_jvp", "custom_vjp", "custom_vmap", "composite"],
)
def test_call(fun):
    equation, values, outputs = equation_of(fun, X)
    call = Call.of(equation)
    np.testing.assert_allclose(as_function(call.body)(*values)[0], outputs[0], rtol=1e-6)
    assert Call.of(equation) == call and hash(call) == hash(Call.of(equation))


def test_the_name_of_a_call():
    assert Call.of(equation_of(jax.jit(marked), X)[0]).name == "marked"
    assert Call.of(equation_of(with_vmap, X)[0]).name == "call"


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse):
    w = jnp.arange(3.0)

    def fun(h, k, xs):
        def step(carry, x):
            h, k = carry
            return (h * w + x, k + 1), (h - x, h.sum())

        return lax.scan(step, (h, k), xs, reverse=reverse, unroll=2)

    equation, values, outputs = equation_of(fun, jnp.ones(3), 0, X)
    loop = Scan.of(equation)
    assert (loop.num_consts, loop.num_carry, loop.length, loop.reverse, loop.unroll) == (1, 2, 2, reverse, 2)
    consts, carry, xs = loop.split(values)
    assert_equal(consts, [w])
    assert_equal(carry, [jnp.ones(3), 0])
    assert_equal(xs, [X])

    def step(carry, xs):
        return loop.split_results(as_function(loop.body)(*consts, *carry, *xs))

    carry, ys = loop.run(step, carry, xs)
    assert_equal([*carry, *ys], outputs)
    assert Scan.of(equation) == loop and hash(loop) == hash(Scan.of(equation))
    _, order = loop.run(lambda carry, x: (carry, x), None, jnp.arange(2), backward=True)
    np.testing.assert_array_equal(order, [0, 1])
    last, _ = loop.run(lambda carry, x: (x, None), 0, jnp.arange(2), backward=True)
    assert last == (1 if reverse else 0)


def test_while():
    bound, factor = jnp.float32(50), jnp.arange(1.0, 4)

    def fun(x):
        def step(state):
            x, count = state
            return x * factor + 1, count + 1

        return lax.while_loop(lambda state: state[0].sum() < bound, step, (x, 0))

    equation, values, outputs = equation_of(fun, jnp.ones(3))
    loop = While.of(equation)
    condition_consts, body_consts, carry = loop.split(values)
    assert_equal(condition_consts, [bound])
    assert_equal(body_consts, [factor])
    while as_function(loop.condition)(*condition_consts, *carry)[0]:
        body_operands = [*body_consts, *carry]
        assert loop.split_body(body_operands) == [body_consts, carry]
        carry = as_function(loop.body)(*body_operands)
    assert_equal(carry, outputs)
    assert outputs[1] > 2


@pytest.mark.parametrize("index", [-3, 0, 1, 2, 9])
def test_cond(index):
    branches = [lambda x: x + 1, lambda x: x * 2, lambda x: -x]
    equation, values, outputs = equation_of(lambda i, x: lax.switch(i, branches, x), jnp.int32(index), X)
    choice = Cond.of(equation)
    known, operands = choice.split(values)
    taken = choice.taken(np.int32(index))
    assert taken == int(known) == min(max(index, 0), 2)
    assert_equal(as_function(choice.branches[taken])(*operands), outputs)
    assert choice.platforms is None


def test_the_platforms_of_a_cond():
    def fun(x):
        return lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)

    platforms = Cond.of(equation_of(fun, X)[0]).platforms
    assert platforms is not None and sorted(map(str, platforms)) == ["('cpu',)", "None"]


def test_shard_map():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    fun = jax.shard_map(lambda x, y: x * y.sum(), mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
    equation, values, outputs = equation_of(fun, X, X)
    region = ShardMap.of(equation)
    assert (region.in_specs, region.out_specs, region.axes, region.check) == ((P("d"), P()), (P("d"),), {"d"}, True)
    assert region.body.jaxpr.invars[0].aval.shape == (1, 3)
    again = region.map(lambda *xs: tuple(as_function(region.body)(*xs)), region.in_specs, region.out_specs)
    assert_equal(jax.jit(again)(*values), outputs)
