"""The plot is a picture that shows the curves."""

import math

import numpy as np
from matplotlib.image import imread

from fnbackprop.training.plots import moving_average, plot_curves


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


def test_moving_average():
    np.testing.assert_allclose(moving_average([4.0, 2.0, 6.0, 0.0], 3), [4, 3, 4, 8 / 3])
    assert moving_average([], 3) == []
