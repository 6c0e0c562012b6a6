"""Pictures, texts and histograms of a jitted evaluation are files of the run, are shown in its report, and resume."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fnbackprop as fb
from tests.training.test_loop import regression


@jax.jit
def evaluate(params):
    pixels = jnp.linspace(0, 1, 3 * 2 * 2).reshape(3, 2, 2, 1)
    return {
        "size": jnp.sum(params["w"] ** 2),
        "samples": fb.Image(pixels),
        "said": fb.Text("a < b"),
        "weights": fb.Histogram(params["w"], bins=4),
    }


def test_a_run_keeps_what_evaluate_shows(tmp_path):
    experiment = regression(evaluate=evaluate, evaluate_every=2)
    fb.train(experiment, steps=4, directory=tmp_path, progress=False)
    folder = tmp_path / "regression"
    assert [path.name for path in sorted((folder / "media").iterdir())] == ["step_00000002", "step_00000004"]
    last = folder / "media/step_00000004"
    picture = np.asarray(Image.open(last / "samples.png"))
    expected = np.full((5, 5), 128)  # a grey pixel between two pictures
    expected[:2, :2], expected[:2, 3:], expected[3:, :2] = np.round(np.linspace(0, 255, 12)).reshape(3, 2, 2)
    np.testing.assert_array_equal(picture, expected)
    assert (last / "said.txt").read_text() == "a < b"
    assert sum(json.loads((last / "weights.json").read_text())["counts"]) == 12
    rows = [row for row in fb.read_metrics(folder) if "evaluate/size" in row]
    assert all(set(row) == {"step", "evaluate/size"} for row in rows) and len(rows) == 2
    page = (folder / "report.html").read_text()
    assert "after 4 steps" in page and "data:image/png;base64," in page and "a &lt; b" in page and "<rect" in page


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (1, 2, 2, 5), (0, 2)])
def test_what_is_no_picture(shape):
    with pytest.raises(fb.ExperimentError, match="with 1, 3 or 4 channels"):
        fb.Image(np.zeros(shape)).grid()


def test_numbers_that_are_no_brightness():
    picture = fb.Image(np.array([[np.nan, -1.0, 2.0]])).grid()
    assert picture[..., 0].tolist() == [[0, 0, 255]]
