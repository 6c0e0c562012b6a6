"""Spikes are found where they are planted, and nowhere else."""

import math

import numpy as np
import pytest

from fnbackprop.balancing.spikes import SpikeWatch


def watched(steps=400, planted=None, seed=0):
    """The spikes of noisy series; `planted(step, name) -> factor`."""
    random, watch = np.random.default_rng(seed), SpikeWatch()
    found = []
    for step in range(steps):
        series = {
            name: math.exp(-step / 200 + 0.1 * random.normal()) * (planted(step, name) if planted else 1.0)
            for name in ("update", "gradient", "loss", "up", "down")
        }
        layers = {"up": series.pop("up"), "down": series.pop("down")}
        found.append(watch.add(step, series, layers))
    return [spike for spike in found if spike is not None]


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_a_trend_are_no_spikes(seed):
    assert watched(2000, seed=seed) == []


def test_what_fired_first_and_where():
    def planted(step, name):
        starts = {"update": 300, "down": 300, "loss": 303}
        return 30.0 if starts.get(name, 999) <= step < 306 else 1.0

    found = watched(planted=planted)
    assert [spike.step for spike in found] == [300, 301, 302, 303, 304, 305]  # none hides the next
    assert set(found[0].z) == {"update"} and found[0].layer == "down" and found[0].first_step == 300
    assert set(found[3].z) == {"update", "loss"} and found[3].first == "update"
    assert str(found[3]).endswith("most in down; update first, at step 300")


def test_a_number_that_is_not_finite_is_a_spike():
    found = watched(planted=lambda step, name: math.nan if step == 350 and name == "loss" else 1.0)
    assert [spike.step for spike in found] == [350] and math.isinf(found[0].z["loss"])


def test_two_spikes_that_are_far_apart_are_two():
    found = watched(planted=lambda step, name: 50.0 if step in (200, 300) else 1.0)
    assert [spike.first_step for spike in found] == [200, 300]
