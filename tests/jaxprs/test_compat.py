"""What differs between JAX versions is one thing here; each test runs under every version that is supported."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnbackprop.jaxprs import compat, substitution
from fnbackprop.jaxprs.evaluate import as_function
from fnbackprop.jaxprs.types import open_jaxpr, rebuild

X = np.arange(3, dtype=np.float32)


def equation(fun, *args):
    """The last equation of a function's jaxpr."""
    return jax.make_jaxpr(fun)(*args).eqns[-1]


def test_a_jaxpr_with_other_constants():
    closed = jax.make_jaxpr(lambda x: x * jnp.asarray(X))(X)
    jaxpr = closed.jaxpr
    again = compat.replaced_and_closed(jaxpr, [10 + X], constvars=jaxpr.constvars)
    np.testing.assert_array_equal(as_function(again)(X)[0], X * (10 + X))
    opened = open_jaxpr(jax.make_jaxpr(lambda x: 2 * x)(X))
    np.testing.assert_array_equal(as_function(compat.with_constants(opened, ()))(X)[0], 2 * X)


def test_the_shardings_of_a_jit():
    mesh = Mesh(np.array(jax.devices()[:1]), ("i",))
    sharding = NamedSharding(mesh, PartitionSpec("i"))
    found = compat.jit_shardings(equation(jax.jit(lambda x, y: x + y, in_shardings=(sharding, None)), X, X))
    assert found == ((sharding, None), (None,))
    assert compat.jit_shardings(equation(jnp.sin, X)) == ((), ())


@pytest.mark.parametrize("kind", ["jit", "scan"])
def test_leading_operands(kind):
    def body(h, y):
        return h + y * 2, h

    if kind == "jit":
        closed, more = jax.make_jaxpr(jax.jit(body))(X, X), compat.with_leading_jit_operands
        operands, expected = [X, X], body(X, X)
    else:
        closed = jax.make_jaxpr(lambda h, y: jax.lax.scan(body, h, y))(np.float32(1), X)
        more, operands = compat.with_leading_scan_constants, [np.float32(1), X]
        expected = jax.lax.scan(body, *operands)
    (holder,) = closed.eqns
    inner = holder.params["jaxpr"]
    unused = jax.make_jaxpr(lambda c: c)(X).jaxpr.invars
    wider = rebuild(inner.jaxpr, [], [], [*unused, *inner.jaxpr.invars], inner.jaxpr.eqns)
    params = {**more(holder.params, 1), "jaxpr": wider}
    found = holder.primitive.bind(X, *operands, **params)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_groups_of_a_scan():
    scan = equation(lambda w, h, g, y: jax.lax.scan(lambda c, y: ((c[0] * w, c[1] + y), y), (h, g), y), X, X, X, X)
    assert compat.scan_groups(scan) == (1, 2)


def test_the_jaxpr_of_a_call():
    custom = jax.custom_jvp(jnp.sin)
    custom.defjvps(lambda t, y, x: t * jnp.cos(x))
    for call in (jax.jit(jnp.sin), jax.checkpoint(jnp.sin), custom):
        found = compat.called_jaxpr(equation(call, X))
        assert [e.primitive.name for e in open_jaxpr(found).eqns] == ["sin"]


def test_platforms():
    chosen = equation(lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos), X)
    plain = equation(lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), X)
    assert compat.branch_platforms(plain) is None
    platforms = compat.branch_platforms(chosen)
    assert sorted(compat.is_for_this_platform(names, platforms) for names in platforms) == [False, True]
    assert compat.is_for_this_platform(("cpu",), platforms) and not compat.is_for_this_platform(("tpu",), platforms)
    branches = [jnp.cos if names is None else jnp.sin for names in platforms]
    found = compat.switch_branch(0, branches, platforms, X)
    np.testing.assert_allclose(found, np.sin(X), rtol=1e-6)
    np.testing.assert_allclose(compat.switch_branch(1, [jnp.sin, jnp.cos], None, X), np.cos(X), rtol=1e-6)


def test_what_a_checkpoint_policy_saves():
    product, named = equation(jnp.dot, X, X), equation(lambda x: checkpoint_name(x, "h"), X)
    policies = jax.checkpoint_policies
    assert compat.policy_saves(policies.everything_saveable, product)
    assert not compat.policy_saves(policies.nothing_saveable, product)
    assert compat.policy_saves(policies.dots_saveable, product) and not compat.policy_saves(
        policies.dots_saveable, named
    )
    assert compat.policy_saves(policies.save_only_these_names("h"), named)
    offloaded = policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=["h"], offload_src="device", offload_dst="pinned_host"
    )
    assert compat.policy_saves(offloaded, named)


def test_the_axes_of_vmap():
    seen = []
    mesh = Mesh(np.array(jax.devices()[:1]), ("i",))

    def f(x):
        seen.append(compat.axes_of_vmap())
        return x

    with jax.set_mesh(mesh):
        jax.vmap(f, spmd_axis_name="i")(X)
    jax.vmap(f)(X)
    assert seen == [{"i"}, frozenset()]


def test_the_name_of_a_function_that_jax_wraps():
    names = []

    def vjp(fun, *primals, **options):
        names.append(compat.name_of(fun))
        return substitution.jax_vjp(fun, *primals, **options)

    def of_the_user(x, y):
        return x * y, (x,)

    with substitution.substituted("the name of a function", vjp):
        jax.value_and_grad(of_the_user, has_aux=True)(2.0, 3.0)
        jax.grad(jax.jit(lambda x: x))(2.0)
        jax.vjp(of_the_user, 1.0, 2.0)
    assert names == ["of_the_user", "<lambda>", "of_the_user"]
    assert compat.name_of(functools.partial(of_the_user)) == ""
