"""The walk over a traced program: what it enters, where it says an equation stands, and the cotangents it carries."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.comparing.equations.loops import LOOPS
from fnbackprop.comparing.equations.walk import Location, Walker, enter
from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.jaxprs.evaluate import bind

X = jnp.float32(0.5)


def scanned(x):
    return lax.scan(lambda c, _: (jnp.sin(c) * x, None), x, None, length=3)[0]


def branched(x):
    return jax.jit(lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x))(x)


def walked(fun, thorough=False):
    """What is seen of sines on the way back: where, and the cotangent; then the gradient."""
    seen = []

    def check(visit, cts):
        if visit.name == "sin":
            seen.append((visit.location.within, float(cts[0])))
        operands = visit.operands
        _, pullback = jax.vjp(lambda *xs: bind(visit.equation, xs)[0], *operands)
        active = visit.step.active
        return [ct if on else None for ct, on in zip(pullback(cts[0]), active, strict=True)]

    traced = trace_program(make_program(fun, (X,), 0, None))
    outputs, cotangents = Walker(bind, check, LOOPS, thorough).run(traced)
    return seen, outputs[0], next(ct for ct in cotangents if ct is not None)


@pytest.mark.parametrize("fun", [scanned, branched])
def test_values_and_gradients(fun):
    _, value, gradient = walked(fun)
    assert jnp.allclose(value, fun(X)) and jnp.allclose(gradient, jax.grad(fun)(X))


def test_iterations_are_walked_backwards_and_named():
    seen, *_ = walked(scanned)
    assert [within for within, _ in seen] == ["scan[2]", "scan[1]", "scan[0]"]
    assert seen[0][1] == pytest.approx(0.5)  # d(sin(c)·x)/d sin(c) = x at the last step


def test_the_branch_that_is_taken_is_named():
    assert walked(branched)[0] == [("cond[1]", 1.0)]  # the one for a true predicate


def test_calls_and_branches_are_entered_and_sines_are_not():
    (call,) = jax.make_jaxpr(branched)(X).jaxpr.eqns
    body, operands, location = enter(call, [X], Location("a.py:1", ""))
    assert operands == [X] and location == Location("a.py:1", "")
    assert enter(jax.make_jaxpr(jnp.sin)(X).jaxpr.eqns[0], [X], location) is None


def test_locations():
    assert Location("a.py:3").inside("scan[4]").inside("cond[1]") == Location("a.py:3", "scan[4]/cond[1]")


def test_a_function_with_a_rule_as_a_whole_is_not_entered():
    """Within eigh_tridiagonal is a bisection, whose warning (an error here) would be false: its gradient is right."""

    def fun(d):
        return jnp.sum(jnp.sin(jax.scipy.linalg.eigh_tridiagonal(d, jnp.full(2, 0.3), eigvals_only=True)))

    with jax.enable_x64(True):
        found = fb.compare(fun, jnp.array([1.0, 2.0, 4.0]))
    assert found.ok, found
