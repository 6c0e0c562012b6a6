"""The plot is a picture that shows the curves."""

import math

import numpy as np
from matplotlib.image import imread

from fnbackprop.training.record.plots import MOST_PANELS, panels_of, plot_curves, summarise


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


def test_evaluations_and_the_losses_own_metrics_have_panels(tmp_path):
    rows = [row | {"accuracy": row["loss"], "gradient_norm/w": 1.0} for row in records([3.0, 2.0, 1.0])]
    evaluated = [{"step": step, "evaluate/accuracy": 0.1 * step} for step in (1, 3)]
    once = {"step": 3, "evaluate/last": 1.0, "watch/value/x": 1.0}
    runs = {"": [*rows, *evaluated, once]}
    assert panels_of(runs) == ["loss", "gradient_norm", "evaluate/accuracy", "accuracy"]
    plain, more = (imread(plot_curves(r, tmp_path / "x.png")) for r in (records([3.0, 2.0]), runs))
    assert more.shape[0] > 1.4 * plain.shape[0]
    many = [row | {f"own{number}": row["loss"] for number in range(40)} for row in rows]
    assert len(panels_of({"": many})) == MOST_PANELS


def test_the_legend_of_several_runs_covers_no_curve(tmp_path):
    """Each curve, a line at the top of its panel and one at its bottom, is seen from end to end."""
    flat = {
        "the run with a rather long label": records([2.0] * 50),
        "another with a label as long": records([1.0] * 50),
    }
    picture = imread(plot_curves(flat, tmp_path / "two.png"))
    for colour in ("#1f77b4", "#ff7f0e"):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        seen = (np.abs(picture[..., :3] - rgb) < 0.05).all(-1)
        assert sum(row.sum() > 0.7 * picture.shape[1] for row in seen) >= 2
