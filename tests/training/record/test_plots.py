"""Which metrics are drawn, and through which points."""

import numpy as np

from fnbackprop.training.record.plots import MOST_PANELS, panels_of, summarise


def test_summarise_keeps_means_and_extremes():
    values = np.random.default_rng(0).normal(size=1003)
    steps, means, low, high = summarise(range(1003), values, points=100)
    assert len(steps) <= 100 and low.min() == values.min() and high.max() == values.max()
    np.testing.assert_allclose(means[3], values[33:44].mean())
    np.testing.assert_allclose([part[-1] for part in (steps, means)], [996 + 3, values[996:].mean()], atol=3)
    assert [part.tolist() for part in summarise([4, 5], [1.0, 2.0])] == [[4, 5], [1, 2], [1, 2], [1, 2]]
    assert all(len(part) == 0 for part in summarise([], []))


def test_evaluations_and_the_losses_own_metrics_have_panels():
    rows = [{"step": step, "loss": 3.0, "gradient_norm": 6.0, "accuracy": 0.5, "gradient_norm/w": 1.0} for step in "ab"]
    evaluated = [{"step": step, "evaluate/accuracy": 0.1 * step} for step in (1, 3)]
    once = {"step": 3, "evaluate/last": 1.0, "watch/value/x": 1.0}
    assert panels_of({"": [*rows, *evaluated, once]}) == ["loss", "gradient_norm", "evaluate/accuracy", "accuracy"]
    many = [row | {f"own{number}": row["loss"] for number in range(40)} for row in rows]
    assert len(panels_of({"": many})) == MOST_PANELS
