"""Which options are swept, and at which points."""

import math

import pytest

from fnbackprop.sweeping.points import SweepError, drawn, grid, label, split_arguments


def test_only_lists_and_ranges_are_swept():
    words = "--width 64,128 --flag --hidden 8 16 --mesh data=2,model=2 --rate=1e-4:1e-2 --name a:b".split()
    swept, rest = split_arguments(words)
    assert swept == {"width": "64,128", "rate": "1e-4:1e-2"}
    assert rest == "--flag --hidden 8 16 --mesh data=2,model=2 --name a:b".split()


def test_a_grid_is_every_combination():
    points = grid({"a": "1,2", "b": "x,y,z"})
    assert len(points) == 6 and points[4] == {"a": "2", "b": "y"} and label(points[4]) == "a=2,b=y"
    with pytest.raises(SweepError, match="--a 1:2 is a range"):
        grid({"a": "1:2"})


def test_points_are_drawn_within_their_ranges_and_evenly():
    points = drawn({"rate": "1e-4:1e-2", "width": "-8:8", "act": "relu,gelu"}, 400, seed=3)
    rates = [float(point["rate"]) for point in points]
    assert min(rates) >= 1e-4 and max(rates) <= 1e-2
    assert abs(sum(rate < 1e-3 for rate in rates) / 400 - 0.5) < 0.08  # the logarithm is uniform
    assert {point["width"] for point in points} == {str(i) for i in range(-8, 9)}
    assert abs(sum(point["act"] == "relu" for point in points) / 400 - 0.5) < 0.08
    assert drawn({"rate": "1e-4:1e-2"}, 3, seed=4) != drawn({"rate": "1e-4:1e-2"}, 3, seed=5)
    with pytest.raises(SweepError, match="LOW:HIGH"):
        drawn({"rate": "2:1"}, 1, seed=0)
    assert math.isfinite(sum(rates))
