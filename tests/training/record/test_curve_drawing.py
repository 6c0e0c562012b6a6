"""Curves as SVG: where the points lie, the ticks, what is not finite, several runs."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fnbackprop.training.record.curve_drawing import BOTTOM, LEFT, RIGHT, TOP, curves_svg, ticks


def records(losses):
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses)]


def lines(svg):
    """The lines that are drawn in a colour."""
    return [part for part in ElementTree.fromstring(svg) if part.get("stroke-width") == "1.8"]


def points(svg):
    """The points of each line."""
    found = [re.findall(r"[ML]([\d.]+) ([\d.]+)", line.get("d")) for line in lines(svg)]
    return [[tuple(map(float, pair)) for pair in line] for line in found]


def test_a_falling_loss_on_a_logarithmic_scale():
    svg = curves_svg({"": records([1.0, 0.1, 0.01])}, "loss", "the <loss>")
    assert points(svg) == [[(LEFT, TOP), ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), (RIGHT, BOTTOM)]]
    assert "the &lt;loss&gt;" in svg and all(f">{tick}<" in svg for tick in ("0.01", "0.1", "1", "2"))


def test_a_line_is_broken_where_it_is_not_finite():
    svg = curves_svg({"": records([2.0, 3.0, math.nan, 2.5])}, "loss", "loss")
    assert ">not finite from step 2<" in svg and len(points(svg)[0]) == 3
    assert [part.get("d").count("M") for part in lines(svg)] == [2]


def test_long_runs_have_bands_and_several_have_names():
    noisy = np.random.default_rng(0).normal(size=1000)
    svg = curves_svg({"one": records(noisy), "a & b": records(noisy[:1])}, "loss", "loss")
    assert svg.count('Z" fill="#1f77b4"') == 1 and ">one<" in svg and ">a &amp; b<" in svg and "<circle" in svg
    assert len(points(svg)[0]) <= 400


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [math.nan], [-1.0, 5.0], [0.0, 1e-30], [7]])
def test_whatever_the_numbers(values):
    ElementTree.fromstring(curves_svg({"": records(values)}, "loss", "loss"))


@pytest.mark.parametrize("low, high, is_log, expected", [
    (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (-3, 2.5, False, [-2, 0, 2]),
    (1e-9, 1, True, [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]),
    (2, 30, True, [2, 5, 10, 20]),
])  # fmt: skip
def test_ticks(low, high, is_log, expected):
    assert ticks(low, high, is_log) == expected
