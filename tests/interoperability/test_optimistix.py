"""Optimistix: roots, minima, least squares and fixed points, differentiated at the solution."""

import jax.numpy as jnp
import numpy as np
import pytest

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
