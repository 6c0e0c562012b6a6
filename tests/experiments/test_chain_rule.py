"""The chain rule's tables say what is true."""

import math
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "chain_rule.py"


@pytest.fixture(scope="module")
def chain_rule():
    """The names of the experiment file."""
    return runpy.run_path(str(FILE))


def test_work_by_hand_is_the_gradient(chain_rule, x64):
    n = chain_rule["Network"]()
    rows, by_hand = chain_rule["work_by_hand"](n)
    arguments = [jnp.asarray(value) for value in (n.w1, n.b1, n.w2, n.b2, n.x, n.target)]
    gradient = jax.grad(chain_rule["scalar_loss"], argnums=range(5))(*arguments)
    np.testing.assert_allclose([by_hand[name] for name in ("w1", "b1", "w2", "b2", "x")], gradient, rtol=1e-14)
    assert math.isclose(math.prod(local for _, _, _, local, _ in rows), gradient[4], rel_tol=1e-14)
    assert math.isclose(rows[-1][1], chain_rule["scalar_loss"](*arguments), rel_tol=1e-14)


def test_what_it_prints_fits_eighty_columns_and_ends_as_promised(capsys):
    with jax.numpy_rank_promotion("allow"):  # the file adds a bias as everyone does
        runpy.run_path(str(FILE), run_name="__main__")
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "by hand, by fb.grad and by jax.grad: the same to within 1e-13"
    assert lines[-1] in FILE.read_text().split('"""')[1]
    assert "fb.grad(car)(1.0) = 8.0    jax.grad(car)(1.0) = 8.0" in printed
    assert "2 × 4 = 8" in lines and [line.split()[2:] for line in lines if "(car)  " in line] == [
        ["mul", "4", "4", "2"],
        ["mul", "8", "2", "1"],
    ]
    (product,) = (line for line in lines if line.count(" × ") == 3)  # of the LSTM's state
    factors, gradient = product.split(" = ")
    assert math.isclose(math.prod(map(float, factors.split(" × "))), float(gradient), rel_tol=1e-3)
    values = [re.findall(r"-?\d+\.\d{6}", line) for line in lines if line.startswith("dloss/d") and "*" not in line]
    assert all(len(set(row)) == 1 for row in values if row) and sum(map(bool, values)) == 5
