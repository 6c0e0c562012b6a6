"""Differences of one equation: with which of the two cotangents do they agree?"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.limited_loops import LimitedFunction

from ..arrays import array_norm, to_float64
from ..numeric.slopes import Slopes, shape_of
from ..results import Agreement, Verdict
from .check import Evidence, float64_function

LENGTHS = 4e-6 * 2.0 ** -np.arange(5)  # of steps in float64, relative to the operand's size


class Opinion(NamedTuple):
    """What differences of the equation say.

    Attributes:
      who: with which side they agree.
      shape: whether the equation is smooth along the direction, see `slopes.shape_of`; reason: in words.
    """

    who: Agreement
    shape: Verdict
    reason: str


SAID_NOTHING = Opinion(Agreement.UNKNOWN, Verdict.SKIPPED, "")
AGREEMENT = {
    (True, True): Agreement.BOTH,
    (True, False): Agreement.MANUAL,
    (False, True): Agreement.AUTOMATIC,
    (False, False): Agreement.NEITHER,
}


def differences(evidence: Evidence, i: int, ours: np.ndarray, theirs: np.ndarray, noise: float = 0.0) -> Opinion:
    """Differences in float64 along one Gaussian direction of the i-th active operand, with both sides' cotangents.

    noise: the relative rounding error of ours, which is of the program's own precision where a jaxpr is held.
    """
    try:
        with jax.enable_x64(True):
            return _differences(evidence, i, ours, theirs, noise)
    except Exception:  # it cannot be run in float64
        return Opinion(Agreement.UNKNOWN, Verdict.PASS, "")


def _differences(evidence: Evidence, i: int, ours: np.ndarray, theirs: np.ndarray, noise: float) -> Opinion:
    check, cts = evidence.check, list(map(to_float64, evidence.cotangents))
    function = float64_function(check, evidence.operands, frozen=False)
    moving = [to_float64(evidence.operands[j]) for j in check.targets]
    centre = moving[i]
    direction = gaussian_direction(centre)

    def along(length: Any) -> Any:
        moved = list(moving)
        moved[i] = centre + length.astype(direction.dtype) * direction
        return sum(jnp.sum(jnp.real(ct * y)) for ct, y in zip(cts, function(*moved), strict=True))

    compiled = LimitedFunction(lambda lengths: jax.lax.map(along, lengths), compiler_options=quick_compilation())
    values = np.asarray(compiled(np.array([0.0, *LENGTHS, *-LENGTHS])))
    count = len(LENGTHS)
    size = max(array_norm(theirs), array_norm(ours)) * array_norm(direction) / math.sqrt(max(centre.size, 1))
    rounding = 1e-15 * max(abs(values[0]), size)
    slopes = Slopes(LENGTHS, values[0], values[1 : count + 1], values[count + 1 :], rounding)
    central = slopes.central
    allowed = 10 * (abs(central[0] - central[2]) + rounding / LENGTHS[2]) + 1e-7 * size
    limits = (ours, allowed + noise * size), (theirs, allowed)
    near = [bool(abs(np.sum(np.real(side * direction)) - central[2]) <= limit) for side, limit in limits]
    return Opinion(AGREEMENT[near[0], near[1]], *shape_of(slopes, 1e-4 * size))


def gaussian_direction(centre: np.ndarray) -> np.ndarray:
    """Gaussian numbers of the size that the array's have; of size 1 where these are all zero."""
    numbers = np.random.default_rng(0).standard_normal((2, *centre.shape))
    direction = numbers[0] + 1j * numbers[1] if np.iscomplexobj(centre) else numbers[0]
    return direction * (array_norm(centre) / math.sqrt(max(centre.size, 1)) or 1.0)
