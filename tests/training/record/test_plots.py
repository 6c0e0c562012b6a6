"""The plot is a picture that shows the curves."""

import base64
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
from matplotlib.image import imread

from fnbackprop.training.record.plots import curves_svg, layers_svg, plot_curves, summarise


def records(losses):
    return [{"step": i, "loss": loss, "gradient_norm": 2 * loss} for i, loss in enumerate(losses)]


def test_plot_curves_draws_the_given_losses(tmp_path):
    falling = imread(plot_curves(records(np.geomspace(1, 1e-3, 50)), tmp_path / "a.png", "falling"))
    rising = imread(plot_curves(records(np.geomspace(1e-3, 1, 50)), tmp_path / "b.png", "rising"))
    assert falling.shape == rising.shape and min(falling.shape[:2]) > 500
    blue = (falling[..., 2] > 0.6) & (falling[..., 0] < 0.3)  # the curve itself
    rows, columns = np.nonzero(blue[: blue.shape[0] // 2])
    assert np.corrcoef(rows, columns)[0, 1] > 0.99  # a falling curve goes down, in rows counted from the top
    assert not np.array_equal(falling, rising)


def test_plot_marks_where_the_loss_broke(tmp_path):
    picture = imread(plot_curves(records([1.0, 0.5, math.nan]), tmp_path / "nan.png"))
    red = (picture[..., 0] > 0.7) & (picture[..., 1] < 0.3) & (picture[..., 2] < 0.3)
    assert red.any()


def test_plot_of_a_zero_curve(tmp_path):
    assert plot_curves(records([0.0, 0.0]), tmp_path / "zero.png").exists()


def test_summarise_keeps_means_and_extremes():
    values = np.random.default_rng(0).normal(size=1003)
    steps, means, low, high = summarise(range(1003), values, points=100)
    assert len(steps) <= 100 and low.min() == values.min() and high.max() == values.max()
    np.testing.assert_allclose(means[3], values[33:44].mean())
    np.testing.assert_allclose([part[-1] for part in (steps, means)], [996 + 3, values[996:].mean()], atol=3)
    assert [part.tolist() for part in summarise([4, 5], [1.0, 2.0])] == [[4, 5], [1, 2], [1, 2], [1, 2]]
    assert all(len(part) == 0 for part in summarise([], []))


def test_several_runs_in_one_picture(tmp_path):
    runs = {"low": records(np.geomspace(1, 0.5, 50)), "high": records(np.geomspace(1, 50, 50))}
    picture = imread(plot_curves(runs, tmp_path / "both.png"))
    orange = (picture[..., 0] > 0.9) & (picture[..., 1] < 0.6) & (picture[..., 2] < 0.2)
    assert orange.any()


def test_svgs_stand_in_a_page():
    svg = curves_svg({"one": records([1.0, 0.5, 0.1, 0.01])}, "loss", "the loss")
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and "the loss" in svg and "currentColor" in svg
    assert all(f">{tick}<" in svg for tick in ("0.01", "0.1", "1"))


def test_the_map_of_layers_is_light_where_the_gradient_is_large():
    found = [{"step": i, "gradient_norm/first": 1.0, "gradient_norm/second": 1e-3} for i in range(4)]
    svg = layers_svg([{"step": 9}, *found], "norm")
    assert svg.count(">first<") == svg.count(">second<") == 1
    encoded = re.search(r"data:image/png;base64,([^\"]+)", svg)[1]
    image = imread(io.BytesIO(base64.b64decode(encoded)))[..., :3].mean(axis=(1, 2))  # a row of pixels each
    assert abs(image[0] - image[-1]) > 0.2
