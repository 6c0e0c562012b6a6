"""The curvature is the Hessian's, and the three rates do what they are named for."""

import jax
import numpy as np
import pytest

from .loading import expected_last_line, load_module, words


@pytest.fixture(scope="module")
def overshoot():
    return load_module("overshoot")


def test_largest_curvature(overshoot, monkeypatch):
    monkeypatch.setattr(
        overshoot.mlp, "init", lambda key, **sizes: {"layers": [overshoot.mlp.linear.init(key, inputs=2, outputs=2)]}
    )
    made = overshoot.experiment(overshoot.Config())
    params = made.arguments()[0]
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.hessian(lambda flat: made.loss(unravel(flat), made.batch(0), None))(flat)
    largest = np.abs(np.linalg.eigvalsh(hessian)).max()
    np.testing.assert_allclose(overshoot.largest_curvature(made, params), largest, rtol=1e-3)


def test_a_short_run(overshoot, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overshoot.show(overshoot.Config(steps=40))
    last = capsys.readouterr().out.splitlines()[-1]
    assert words(last) == words(expected_last_line(overshoot))
    low, balanced, high = (float(part.split()[-2]) for part in last.removeprefix("loss ").split(","))
    assert balanced < low < high and (tmp_path / "runs/overshoot.png").exists()
