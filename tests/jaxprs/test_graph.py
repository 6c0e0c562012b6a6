"""What computes, reads and depends on what, on one small jaxpr: a = x*y; b = sin(a); c = cos(x); d = b + c."""

import jax
import jax.numpy as jnp

from fnbackprop.jaxprs import graph


def fun(x, y):
    return jnp.sin(x * y) + jnp.cos(x)


JAXPR = jax.make_jaxpr(fun)(1.0, 2.0).jaxpr
X, Y = JAXPR.invars
BY_NAME = {e.primitive.name: e for e in JAXPR.eqns}
A, B, C, D = (BY_NAME[name].outvars[0] for name in ("mul", "sin", "cos", "add"))


def test_producers():
    assert graph.producers(JAXPR.eqns) == {A: BY_NAME["mul"], B: BY_NAME["sin"], C: BY_NAME["cos"], D: BY_NAME["add"]}


def test_descendants_and_ancestors():
    assert graph.descendants(JAXPR.eqns, [Y]) == {Y, A, B, D}
    assert set(graph.ancestors(JAXPR.eqns, [B])) == {B, A, X, Y}
    assert set(graph.ancestors(JAXPR.eqns, [D], stop=[A])) == {D, B, C, X}


def test_live():
    assert graph.live(JAXPR.eqns, [B]) == [BY_NAME["mul"], BY_NAME["sin"]]


def test_fixpoint():
    """Each step hands every flag on to the next place."""
    assert graph.fixpoint(lambda flags: (False, *flags[:-1]), (False, True, False, False)) == (False, True, True, True)


def test_inner_jaxprs():
    looped = jax.make_jaxpr(lambda x: jax.lax.scan(lambda h, _: (jax.jit(jnp.sin)(h), None), x, length=2)[0])(1.0)
    assert [e.primitive.name for e in graph.all_equations(looped)] == ["scan", "jit", "sin"]
    assert graph.holds(looped, {"sin"}) and not graph.holds(looped, {"cos"})
