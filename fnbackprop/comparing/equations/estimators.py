"""Rules that give a slope to a function that has none: straight-through estimators, surrogates of a step, and the
slopes of functions that decide (a bisection) or stop a gradient."""

import math
from typing import Any, NamedTuple

import numpy as np

from fnbackprop.jaxprs.graph import holds
from fnbackprop.jaxprs.limited_loops import TooManyIterations
from fnbackprop.jaxprs.views import Call

from ..arrays import to_float64
from ..noise import shaken
from ..program import first_line
from ..tolerance import NOISE_LIMIT, facts_of_equation, rounding_floor
from .check import COMPILED, Evidence
from .primal_slopes import PrimalSlope, primal_slope

NEAR_ONE = 0.8, 1.25  # a slope that is the same everywhere, and so near the identity's, was meant to be that
APART = 0.5  # relative: how far the operand is moved to see whether a slope is the same everywhere


class EstimatorVerdict(NamedTuple):
    """What there is to say of such a rule, and how wrong it is; error: 0 if it is not.

    Attributes:
      said: in words. error, allowed: relative.
    """

    said: str
    error: float = 0.0
    allowed: float = 0.0


def estimator_verdict(evidence: Evidence, i: int, ours: np.ndarray) -> EstimatorVerdict:
    """The verdict on a rule that gives the i-th active operand the cotangent `ours`, where JAX says that it is 0."""
    floor = rounding_floor(facts_of_equation(evidence.check.equation))
    slopes = _slopes(evidence, ours)
    if slopes is not None and _alike(slopes[slopes != 0], 1.0, floor):
        which = "that of the identity" if slopes.all() else "that of the identity at some elements, and 0 at others"
        return EstimatorVerdict(f"its primal has no derivative, its rule gives one, {which} (straight through)")
    try:
        found = primal_slope(evidence, [i], to_the_end=holds(Call.of(evidence.check.equation).body, {"while"}))
    except Exception as error:  # the user's function may refuse anything
        return EstimatorVerdict(f"its primal has no derivative, its rule gives one, not compared: {first_line(error)}")
    if abs(found.central) <= 1e-3 * abs(found.slope) and found.allowed < NOISE_LIMIT:
        return _of_flat(evidence, i, slopes, floor)
    if found.agrees and found.allowed < NOISE_LIMIT:
        said = f"{found.error:.1e} off its primal's slope by differences, of which JAX sees nothing"
        return EstimatorVerdict(f"its rule is {said} (a stopped gradient, or decisions)")
    return _of_moving(found)


def _of_moving(found: PrimalSlope) -> EstimatorVerdict:
    if not found.allowed < NOISE_LIMIT:
        said = "its primal has no derivative, its rule gives one, and differences do not tell whether it is right"
        return EstimatorVerdict(f"{said} ({found.error:.1e} off, known to {found.allowed:.1e})")
    return EstimatorVerdict(f"by differences (JAX gives a slope of 0): {found.in_words()}", found.error, found.allowed)


def _of_flat(evidence: Evidence, i: int, slopes: np.ndarray | None, floor: float) -> EstimatorVerdict:
    """Of a function that is flat: one slope everywhere, near 1 but not 1, is a wrong identity; else a surrogate."""
    said = "its primal is flat, its rule gives a slope"
    if slopes is None or not slopes.any():
        return EstimatorVerdict(f"{said} (straight through)")
    given = slopes[slopes != 0]
    first = float(np.real(given.flat[0]))
    if not (
        NEAR_ONE[0] < first < NEAR_ONE[1] and _alike(given, first, floor) and _everywhere(evidence, i, first, floor)
    ):
        real = np.real(given)
        return EstimatorVerdict(
            f"{said} of {np.min(real):.4g} to {np.max(real):.4g} (straight through, by a surrogate)"
        )
    said = f"its primal is flat, and its rule gives the slope {first:.6g} everywhere, where a straight-through"
    return EstimatorVerdict(f"{said} estimator's is 1: if that is meant, name it in `intended`", abs(first - 1), floor)


def _everywhere(evidence: Evidence, i: int, slope: float, floor: float) -> bool:
    """Whether the rule gives the same slope, or 0, at operands far away."""
    check = evidence.check._replace(primal=False)
    for sample in range(2):
        moved = shaken(list(evidence.operands), sample, APART)
        try:
            there = _slopes(evidence, to_float64(COMPILED.both(check, moved, evidence.cotangents)[i].second))
        except TooManyIterations:
            continue
        if there is None or not _alike(there[there != 0], slope, floor):
            return False
    return True


def _slopes(evidence: Evidence, ours: np.ndarray) -> np.ndarray | None:
    """The slope at each element, of a function that gives one number for each; None if it gives others."""
    cts: list[Any] = [to_float64(ct) for ct in evidence.cotangents if np.any(to_float64(ct))]
    if len(cts) != 1 or cts[0].shape != ours.shape:
        return None
    return ours[cts[0] != 0] / cts[0][cts[0] != 0]


def _alike(slopes: np.ndarray, slope: float, floor: float) -> bool:
    return slopes.size > 0 and math.isfinite(slope) and bool(np.all(np.abs(slopes - slope) <= floor * abs(slope)))
