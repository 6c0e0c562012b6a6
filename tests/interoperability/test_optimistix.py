"""Optimistix: roots, minima, least squares and fixed points, differentiated at the solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb

from .agreement import check_agreement

optimistix = pytest.importorskip("optimistix")
pytestmark = pytest.mark.filterwarnings("ignore:.*no hand-written rule")


def residual(y, args):
    return jnp.stack([y[0] ** 2 + y[1] - args[0], y[1] - jnp.sin(y[0]) * args[1]])


def contraction(y, args):
    return jnp.cos(y) * args[0] / 4 + args[1]


def solved(find, solver, function):
    def solution(args):
        start = jnp.asarray([0.7, 0.4])
        return find(function, solver, start, args, max_steps=64, throw=False).value

    return solution


def test_implicit_adjoints():
    tolerance = {"rtol": 1e-10, "atol": 1e-10}
    programs = {
        "root": solved(optimistix.root_find, optimistix.Newton(**tolerance), residual),
        "least squares": solved(optimistix.least_squares, optimistix.LevenbergMarquardt(**tolerance), residual),
        "minimum": solved(
            optimistix.minimise, optimistix.BFGS(**tolerance), lambda y, args: jnp.sum(residual(y, args) ** 2)
        ),
        "fixed point": solved(optimistix.fixed_point, optimistix.FixedPointIteration(**tolerance), contraction),
    }
    check_agreement({name: (fun, (np.array([1.3, 0.8]),)) for name, fun in programs.items()}, 1e-8)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
def test_solvers_that_stop_early_pass_a_comparison(tolerance):
    """The rule is that of the exact solution; the solver's steps have another slope, which is told."""
    options = {"rtol": tolerance, "atol": tolerance}
    programs = {
        "root": solved(optimistix.root_find, optimistix.Newton(**options), residual),
        "least squares": solved(optimistix.least_squares, optimistix.LevenbergMarquardt(**options), residual),
        "fixed point": solved(optimistix.fixed_point, optimistix.FixedPointIteration(**options), contraction),
    }
    told = []
    for name, fun in programs.items():
        result = fb.compare(lambda args, fun=fun: jnp.sum(fun(args) ** 2), np.array([1.3, 0.8]))
        assert result.ok, f"{name}: {result}"
        told += result.intended
    assert any("exact solution" in line and "off the slope of its steps" in line for line in told)


def test_a_wrong_implicit_rule_is_found():
    """Of a solver of one's own: Newton's steps for a square root, whose rule lacks a factor of two."""

    @jax.custom_jvp
    def root(x):
        return jax.lax.while_loop(lambda y: abs(y * y - x) > 1e-3, lambda y: (y + x / y) / 2, x)

    root.defjvp(lambda x, dx: ((y := root(*x)), dx[0] / y))
    result = fb.compare(lambda x: root(x) ** 3, 2.0)
    assert not result.ok and "by differences" in str(result)
