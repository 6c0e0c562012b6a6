"""The solution solves the equation, the gradient through second derivatives is JAX's, and a short run comes near."""

import jax
import numpy as np
import pytest

import fnbackprop as fb

from .loading import load_module, promised_numbers


@pytest.fixture(scope="module")
def physics():
    return load_module("physics")


@pytest.mark.parametrize("strength", [0.5, 2.0, 3.5])
def test_the_solution_solves_the_equation(physics, strength):
    x, h = np.linspace(0.1, 0.9, 9), 1e-4
    left, here, right = (physics.solution(x + side, strength) for side in (-h, 0, h))
    np.testing.assert_allclose((left - 2 * here + right) / h**2, -strength * np.exp(here), rtol=1e-5)
    np.testing.assert_allclose(physics.solution(np.array([0.0, 1.0]), strength), 0, atol=1e-12)


def test_both_backwards(physics):
    made = physics.experiment(physics.Config(width=4, batch_size=3))
    arguments = made.arguments()
    ours, theirs = (jax.jit(grad(made.loss))(*arguments) for grad in (fb.grad, jax.grad))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), ours, theirs)


def test_a_short_run(physics, in_memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(physics, "PICTURE", tmp_path / "solution.png")
    physics.show(physics.Config(width=16, steps=200, batch_size=16))
    error, largest = promised_numbers(physics, capsys.readouterr().out)
    assert error < 0.02 < largest and physics.PICTURE.exists()
