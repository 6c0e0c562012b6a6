"""Lineax: a linear solve is a primitive of its own, differentiated by the rules that its author registered."""

import jax
import numpy as np
import pytest

from .agreement import check_agreement, draw

lineax = pytest.importorskip("lineax")
pytestmark = pytest.mark.filterwarnings("ignore:.*no hand-written rule")

MATRIX, VECTOR = draw(3, 3) + 4 * np.eye(3), draw(3)


def solve(matrix, vector, solver=None):
    operator = lineax.MatrixLinearOperator(matrix)
    return lineax.linear_solve(operator, vector, solver or lineax.AutoLinearSolver(well_posed=True)).value


def symmetric(matrix, vector):
    operator = lineax.MatrixLinearOperator(matrix @ matrix.T, lineax.positive_semidefinite_tag)
    return lineax.linear_solve(operator, vector, lineax.CG(1e-12, 1e-12)).value


def of_a_function(matrix, vector):
    operator = lineax.FunctionLinearOperator(lambda x: matrix @ x, jax.ShapeDtypeStruct((3,), "float64"))
    return lineax.linear_solve(operator, vector, lineax.GMRES(1e-12, 1e-12)).value


def test_linear_solves():
    programs = {
        "auto": solve,
        "QR": lambda a, b: solve(a, b, lineax.QR()),
        "least squares": lambda a, b: solve(a[:, :2], b, lineax.SVD()),
        "CG": symmetric,
        "GMRES": of_a_function,
        "vmap": lambda a, b: jax.vmap(solve, (None, 0))(a, a * b),
    }
    check_agreement({name: (fun, (MATRIX, VECTOR)) for name, fun in programs.items()}, 1e-9)
