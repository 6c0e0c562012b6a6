"""The rules, one after the other, on facts that are made up."""

import dataclasses

import numpy as np
import pytest

from fnbackprop.balancing.branches import FURTHEST, Branch, suggestions
from fnbackprop.balancing.estimates import Estimate
from fnbackprop.balancing.facts import Facts
from fnbackprop.balancing.noise import NoiseScale
from fnbackprop.balancing.suggestion import suggest, why_none
from fnbackprop.balancing.verdict import Verdict, judge

START = 2.0


def branch(factor, end, overshoot=-0.5):
    """Fifty steps from the start to this loss; None: to infinity."""
    if end is None:
        return Branch(factor, np.array([START, 10.0, np.inf]), np.array([]))
    losses = np.concatenate([np.linspace(START, end, 30), np.full(20, end)])
    return Branch(factor, losses, np.full(50, overshoot) if factor == 1.0 else np.array([]))


def facts(ratio, ends, overshoot=-0.5, **more):
    """Of the losses at a quarter, a half, once, twice and four times the rate."""
    branches = tuple(branch(f, end, overshoot) for f, end in zip((0.25, 0.5, 1.0, 2.0, 4.0), ends, strict=True))
    known = None if ratio is None else Estimate(ratio, ratio, ratio)
    start = Estimate(START, START - 0.01, START + 0.01)
    return Facts("made up", 0, start=start, ratio=known, branches=branches, **more)


def risen_first(given):
    """The same, with a loss that is three times the first one at the fifth step."""
    losses = given.branch(1.0).losses.copy()
    losses[4] = 3 * START
    here = dataclasses.replace(given.branch(1.0), losses=losses)
    return dataclasses.replace(given, branches=tuple(here if b.factor == 1.0 else b for b in given.branches))


GOOD = (1.5, 1.2, 1.0, 1.0, 1.1)
CASES = {
    "not finite": (facts(30.0, (1.5, 1.6, None, None, None)), Verdict.DIVERGING),
    "rises": (facts(3.0, (1.5, 1.6, 5.0, None, None)), Verdict.DIVERGING),
    "rises, of unknown ratio": (facts(None, (1.5, 1.6, 5.0, None, None)), Verdict.DIVERGING),
    "uphill": (facts(1.8, (1.2, 1.5, 2.1, 3.0, None), overshoot=1.2), Verdict.OVERSHOOTING),
    "far above, and a lower one wins": (facts(20.0, (1.0, 1.4, 1.9, 3.0, None)), Verdict.OVERSHOOTING),
    "catapult": (risen_first(facts(1.5, GOOD)), Verdict.CATAPULT),
    "catapult, later": (dataclasses.replace(risen_first(facts(1.5, GOOD)), step=10), Verdict.BALANCED),
    "above critical, and nothing happens": (facts(1.5, GOOD), Verdict.BALANCED),
    "above critical at first, and a lower one wins": (facts(1.5, (0.5, 0.8, 1.0, 1.5, 3.0)), Verdict.CATAPULT),
    "short steps, of which four times as long ones bring little": (
        facts(0.05, (1.6, 1.2, 0.8, 0.4, 0.3), overshoot=-0.9),
        Verdict.BALANCED,
    ),
    "the same, very far below the critical rate": (
        facts(0.01, (1.6, 1.2, 0.8, 0.4, 0.3), overshoot=-0.9),
        Verdict.TOO_LOW,
    ),
    "edge": (facts(1.0, GOOD), Verdict.AT_THE_EDGE),
    "at the edge at the beginning, and a lower one wins": (facts(1.0, (0.5, 0.8, 1.0, 1.5, 3.0)), Verdict.CATAPULT),
    "a higher one is faster, but not by far": (facts(0.4, (1.8, 1.6, 1.4, 1.2, 1.3)), Verdict.BALANCED),
    "a lower one has less noise": (facts(0.4, (1.0, 1.1, 1.3, 1.5, 1.6)), Verdict.BALANCED),
    "muon, much too high": (facts(None, (1.0, 1.6, 1.9, 1.9, 1.9)), Verdict.OVERSHOOTING),
    "muon, too low": (facts(None, (1.9, 1.8, 1.7, 1.5, 1.2), overshoot=-0.95), Verdict.TOO_LOW),
    "a low ratio and long steps": (facts(0.01, (1.9, 1.8, 1.7, 1.5, 1.2), overshoot=-0.2), Verdict.BALANCED),
    "balanced": (facts(0.4, GOOD), Verdict.BALANCED),
    "too low": (facts(0.01, (1.9, 1.8, 1.7, 1.5, 1.2), overshoot=-0.95), Verdict.TOO_LOW),
    "a gradient that is wrong": (facts(0.4, GOOD, refusal="The gradient is wrong"), Verdict.CANNOT_JUDGE),
    "small batches": (
        facts(0.4, GOOD, noise=NoiseScale(Estimate(5000.0, 4000.0, 6000.0), 8), batch_size=8),
        Verdict.NOISE_LIMITED,
    ),
    "short steps, and nothing helps": (facts(0.01, (1.9, 1.8, 1.7, 1.75, 1.72), overshoot=-0.95), Verdict.BALANCED),
    "above critical, a higher one wins, and all rise": (
        dataclasses.replace(facts(5.0, (2.5, 2.4, 2.005, 1.9, 1.9)), step=9),
        Verdict.BALANCED,
    ),
    "the rate makes no difference": (facts(0.0, (2.0,) * 5), Verdict.UNDECIDED),
    "the signals disagree": (
        dataclasses.replace(facts(1.05, (2.5, 2.6, 3.0, 3.2, 3.5)), step=10),
        Verdict.UNDECIDED,
    ),
    "nothing yet": (Facts("made up", 0), Verdict.UNDECIDED),
}


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name):
    given, verdict = CASES[name]
    found = judge(given)
    assert found.verdict is verdict, found
    assert found.sentence.endswith(".") and found.sentence[0].isupper()


def test_suggestions():
    given, _ = CASES["too low"]
    found = suggest(given, judge(given))
    assert found.multiplier.value == 4 and found.multiplier.low < 4 < found.multiplier.high and not found.warm_up
    given, _ = CASES["balanced"]
    assert suggest(given, judge(given)).multiplier.value == 1
    given, _ = CASES["far above, and a lower one wins"]
    found = suggest(given, judge(given))
    assert found.multiplier.value == 0.25 and found.warm_up
    noisy = dataclasses.replace(CASES["muon, too low"][0], start=Estimate(1.0, 0.5, 3.0))  # its batches were easier
    assert suggest(noisy, judge(noisy)).multiplier.value == 4
    none_falls = facts(40.0, (2.5, 3.0, None, None, None))
    assert suggest(none_falls, judge(none_falls)).multiplier.value == pytest.approx(0.5 / 40)


def suggestion_of(given):
    return suggest(given, judge(given))


def test_where_nothing_is_suggested_it_says_why():
    unmoved = CASES["the rate makes no difference"][0]
    far = dataclasses.replace(unmoved.branches[0], factor=6e23, losses=unmoved.branches[0].losses * 0.999)
    unmoved = dataclasses.replace(unmoved, branches=(*unmoved.branches, far))
    for given, why in (
        (unmoved, "the losses are the same"),
        (CASES["a gradient that is wrong"][0], "nothing to go by"),
        (Facts("made up", 0), "no steps were taken"),
        (CASES["the signals disagree"][0], "no rate that was tried does clearly better"),
    ):
        assert suggestion_of(given) is None and why in why_none(given, judge(given))


def test_no_suggestion_is_further_than_rates_are_tried():
    none_falls = facts(1e9, (2.5, 3.0, None, None, None))
    assert suggestion_of(none_falls).multiplier.value == 1 / FURTHEST
    assert suggestions(Estimate(1e-24, 1e-24, 1e-24), None) == [FURTHEST]
