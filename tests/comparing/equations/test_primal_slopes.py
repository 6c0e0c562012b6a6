"""Rules of solvers, and of functions that decide: a right one passes however early they stop, a wrong one not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.comparing.equations.check import EquationCheck, Evidence
from fnbackprop.comparing.equations.primal_slopes import primal_slope
from fnbackprop.comparing.results import Cotangent, Verdict

A = np.array([1.5, 2.0, 3.0], "float32")
X = np.linspace(0.5, 1.5, 6, dtype=np.float32)


def fixed_point(tolerance):
    """x = cos(a x)."""

    def solve(a):
        def goes_on(state):
            return jnp.abs(state[0] - state[1]) > tolerance

        start = jnp.ones_like(a), jnp.zeros_like(a)
        return lax.while_loop(goes_on, lambda state: (jnp.cos(a * state[0]), state[0]), start)[0]

    def slope(a, x):
        return -jnp.sin(a * x) * x / (1 + a * jnp.sin(a * x))

    return solve, slope


def newton(tolerance):
    def solve(a):
        return lax.while_loop(lambda x: jnp.any(jnp.abs(x * x - a) > tolerance), lambda x: (x + a / x) / 2, a)

    return solve, lambda a, x: 1 / (2 * x)


def bisection(steps):
    """Of x**3 = a, by a loop that decides: without a tolerance, or by `scan` if `steps` is a number."""

    def step(bounds, a):
        low, high = bounds
        middle = (low + high) / 2
        right = middle**3 < a
        return jnp.where(right, middle, low), jnp.where(right, high, middle)

    def solve(a):
        bounds = jnp.zeros_like(a), jnp.full_like(a, 4)
        if steps is not None:
            return lax.fori_loop(0, steps, lambda _, bounds: step(bounds, a), bounds)[0]
        return lax.while_loop(lambda b: jnp.any(b[1] - b[0] > 1e-3), lambda b: step(b, a), bounds)[0]

    return solve, lambda a, x: 1 / (3 * x * x)


def secant(tolerance):
    """Whose steps divide zero by zero when they go on."""

    def solve(a):
        def step(state):
            x, before = state
            return x - (x * x - a) * (x - before) / (x * x - before * before), x

        start = jnp.asarray(a), jnp.asarray(a + 1)
        return lax.while_loop(lambda state: jnp.abs(state[0] ** 2 - a) > tolerance, step, start)[0]

    return solve, lambda a, x: 1 / (2 * x)


def with_rule(solver, factor):
    solve, slope = solver

    @jax.custom_vjp
    def root(a):
        return solve(a)

    root.defvjp(lambda a: ((x := root(a)), (a, x)), lambda saved, dy: (factor * dy * slope(*saved),))
    return root


SOLVERS = {
    "to 1e-7": (fixed_point(1e-7), np.float32(0.7)),
    "to 1e-3": (fixed_point(1e-3), np.float32(0.7)),
    "without end": (fixed_point(0.0), np.float32(0.7)),
    "Newton": (newton(1e-2), A),
    "bisection": (bisection(None), A),
    "bisection by scan": (bisection(40), A),
    "short bisection by scan": (bisection(20), A),
    "secant": (secant(1e-2), np.float32(3.0)),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_rule_of_a_solver(name):
    """Right, it is that of the exact solution; 2 % off, it is wrong."""
    solver, a = SOLVERS[name]
    found = fb.compare(lambda a: jnp.sum(jnp.sin(with_rule(solver, 1.0)(a))), a, progress=False)
    assert found.verdict is Verdict.PASS, str(found)
    found = fb.compare(lambda a: jnp.sum(jnp.sin(with_rule(solver, 1.02)(a))), a, progress=False)
    assert found.verdict is Verdict.FAIL and found.equations, str(found)
    assert found.equations[0].error > 0.002


def test_what_was_measured_is_told():
    found = fb.compare(lambda a: jnp.sum(with_rule(newton(1e-2), 1.0)(a)), A, progress=False)
    (said,) = found.intended
    assert "off the slope of its steps" in said and "once they go on until nothing changes" in said


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("factor, verdict", [(1.0, Verdict.PASS), (1.02, Verdict.FAIL)])
def test_the_tangent_of_a_custom_root(factor, verdict, batched):
    def cube_root(a):
        def solve(fun, start):
            slope = jax.grad(lambda x: jnp.sum(fun(x)))
            return lax.while_loop(lambda x: jnp.any(abs(fun(x)) > 1e-3), lambda x: x - fun(x) / slope(x), start)

        one = jnp.ones_like(a)
        return lax.custom_root(lambda x: x**3 - a, one, solve, lambda g, y: factor * y / g(jnp.ones_like(y)))

    cube_root = jax.vmap(cube_root) if batched else cube_root
    found = fb.compare(lambda a: jnp.sum(cube_root(a)), A, progress=False)
    assert found.verdict is verdict, str(found)


def test_a_count_of_steps_does_not_go_on():
    """A loop over as many terms as an argument says is no solver: going on, it would be another function."""

    def powers(factor):
        @jax.custom_vjp
        def total(x, n):
            return lax.fori_loop(0, n, lambda i, s: s * x + 1, jnp.zeros_like(x))

        def slope(x, n):
            return jax.jvp(lambda x: sum(x**k for k in range(5)), (x,), (jnp.ones_like(x),))[1]

        total.defvjp(lambda x, n: (total(x, n), (x, n)), lambda saved, dy: (factor * dy * slope(*saved), None))
        return lambda x: jnp.sum(total(x, jnp.int32(5)))

    assert fb.compare(powers(1.0), X, progress=False).ok
    found = fb.compare(powers(1.02), X, progress=False)
    assert found.verdict is Verdict.FAIL and "by differences" in found.equations[0].reason, str(found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_slope_and_how_far_it_is_known(dtype):
    custom = jax.custom_vjp(jnp.sin)
    custom.defvjp(lambda x: (jnp.sin(x), x), lambda x, dy: (-dy * jnp.cos(x),))
    x = jnp.asarray(X, dtype)
    check = EquationCheck(jax.make_jaxpr(custom)(x).jaxpr.eqns[-1], (True,), True, users_mode=False)
    found = primal_slope(Evidence(check, [x], [jnp.ones_like(x)], [], Cotangent.ACTUAL, None), [0])
    assert found.central == pytest.approx(-found.slope, rel=0.05 if dtype == "bfloat16" else 1e-6)
    assert found.error > 5 * found.allowed and not found.agrees
