"""The slope of a user's function by differences, where JAX does not differentiate it or gives a slope of zero.

Steps go from an eighth of the operand to what float64 resolves: a function that decides (a bisection) is a staircase at
close range, whose slope is seen over steps that are wider than its stairs. A solver that stops early has another slope
than the solution that it stops at; so its loops can be made to go on until nothing changes (`limited_loops`).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.limited_loops import LimitedFunction, TooManyIterations, present_limits

from ..arrays import array_norm, to_float64
from ..noise import MORE_SAMPLES, shaken
from ..numeric.slopes import Slopes, best_step
from ..reference.float64 import is_another_branch
from ..tolerance import NOISE, facts_of_equation, rounding_floor, unit_roundoff
from .check import COMPILED, Evidence, equation_function, float64_function
from .equation_differences import gaussian_direction

WIDEST = 2.0**-3  # step, relative to the operand
EARLIER = 0.25  # of the iterations that a loop may go on for: has it converged by then?


class PrimalSlope(NamedTuple):
    """A rule's slope and that of its primal, along one direction of an operand.

    Attributes:
      slope: by the rule; central: by differences.
      error, allowed: of the one from the other, and what steps and rounding explain, relative to the slope's size.
    """

    slope: float
    central: float
    error: float
    allowed: float

    @property
    def agrees(self) -> bool:
        return self.error <= self.allowed

    def in_words(self) -> str:
        factor = f", a factor of {self.slope / self.central:.3g}" if self.central else ""
        return f"the slope by the rule is {self.slope:.6g}, by differences {self.central:.6g}{factor}"


def primal_slope(evidence: Evidence, alike: Sequence[int], to_the_end: bool = False) -> PrimalSlope:
    """A user's rule against differences of its primal, along one Gaussian direction of the active operands `alike`,
    which are one value.

    Args:
      evidence: whose second cotangents of each pair are by the user's rule.
      to_the_end: loops go on until nothing changes, in the function and in the rule.
    Raises:
      TooManyIterations: a loop does not end beside the point.
    """
    check, limits = evidence.check, present_limits()
    direction = gaussian_direction(to_float64(evidence.operands[check.targets[alike[0]]]))
    with limits.running_on() if to_the_end else contextlib.nullcontext():
        cotangent = _by_rule(evidence, alike, evidence.operands)
        central, spread = _differences(evidence, alike, direction)
    if to_the_end:
        with limits.running_on(EARLIER):
            spread += 2 * abs(_differences(evidence, alike, direction)[0] - central)
    slope = float(np.sum(np.real(cotangent * direction)))
    size = max(array_norm(cotangent) * array_norm(direction) / math.sqrt(max(direction.size, 1)), abs(central)) or 1.0
    facts = facts_of_equation(check.equation)
    found = PrimalSlope(slope, central, abs(slope - central) / size, spread / size + rounding_floor(facts))
    if found.agrees or not math.isfinite(found.error):
        return found
    with limits.running_on() if to_the_end else contextlib.nullcontext():
        noise = _rule_noise(evidence, alike, cotangent, direction, facts.roundoff)
    return found._replace(allowed=found.allowed + NOISE * noise / size)


def _by_rule(evidence: Evidence, alike: Sequence[int], operands: Sequence[Any]) -> np.ndarray:
    pairs = COMPILED.both(evidence.check._replace(primal=False), operands, evidence.cotangents)
    return sum(to_float64(pairs[i].second) for i in alike)


def _rule_noise(
    evidence: Evidence, alike: Sequence[int], cotangent: np.ndarray, direction: np.ndarray, roundoff: float
) -> float:
    """How far the rule's slope moves when the last bit of every operand changes."""
    noise = 0.0
    for sample in range(MORE_SAMPLES):
        with contextlib.suppress(TooManyIterations):
            moved = _by_rule(evidence, alike, shaken(list(evidence.operands), sample, roundoff))
            noise = max(noise, abs(float(np.sum(np.real((moved - cotangent) * direction)))))
    return noise


def _differences(evidence: Evidence, alike: Sequence[int], direction: np.ndarray) -> tuple[float, float]:
    """The primal's slope along the direction, and how far from the truth it may be: in float64, or where it cannot be
    run in it as it is, in its own precision."""
    own = _values_in_own_precision(evidence, alike, direction)
    floor = rounding_floor(facts_of_equation(evidence.check.equation))
    try:
        with jax.enable_x64(True), contextlib.suppress(_AnotherBranch):
            return _surest(_values_in_float64(evidence, alike, direction), own(0.0), np.float64, floor)
    except TooManyIterations:
        raise
    except Exception:  # what is the user's may refuse float64 in any way
        pass
    return _surest(own, own(0.0), evidence.operands[evidence.check.targets[alike[0]]].dtype, floor)


class _AnotherBranch(Exception):
    """In float64 the function is another one."""


def _surest(value: Callable[[float], float], here: float, dtype: Any, floor: float) -> tuple[float, float]:
    """The central difference that is the surest, and how far from the truth it may be; `here`: what the value is, up to
    `floor` and more."""
    roundoff = unit_roundoff(dtype)
    lengths = np.array(list(_lengths(roundoff)))
    ahead, behind = (np.array([value(sign * length) for length in lengths]) for sign in (1, -1))
    centre = value(0.0)
    if is_another_branch(centre, np.float64(here), floor):
        raise _AnotherBranch
    rounding = 4 * roundoff * float(np.nanmax(np.abs([*ahead, *behind, centre])))
    slopes = Slopes(lengths, centre, ahead, behind, rounding)
    chosen, spread = best_step(slopes.central[None], lengths, rounding)
    return float(slopes.central[chosen]), spread


def _lengths(roundoff: float) -> Iterator[float]:
    """Powers of two from WIDEST, at least five, down to where rounding begins to matter more than the step."""
    length, narrowest = WIDEST, max(min(roundoff ** (2 / 5), WIDEST / 16), 2.0**-20)
    while length >= narrowest:
        yield length
        length /= 2


def _values_in_own_precision(evidence: Evidence, alike: Sequence[int], direction: np.ndarray) -> Callable:
    check, moving = evidence.check, [evidence.operands[j] for j in evidence.check.targets]
    function = equation_function(check, evidence.operands, primal=True)
    run = LimitedFunction(lambda *moved: function(*moved), compiler_options=quick_compilation())
    dtype = moving[alike[0]].dtype

    def value(length: float) -> float:
        step = jnp.asarray(length * direction, dtype)
        return _paired(evidence, run(*(x + step if i in alike else x for i, x in enumerate(moving))))

    return value


def _values_in_float64(evidence: Evidence, alike: Sequence[int], direction: np.ndarray) -> Callable:
    check, moving = evidence.check, [to_float64(evidence.operands[j]) for j in evidence.check.targets]
    function = float64_function(check, evidence.operands, frozen=False)
    run = LimitedFunction(lambda *moved: function(*moved), compiler_options=quick_compilation())

    def value(length: float) -> float:
        return _paired(evidence, run(*(x + length * direction if i in alike else x for i, x in enumerate(moving))))

    return value


def _paired(evidence: Evidence, outputs: Sequence[Any]) -> float:
    """The pairing of the cotangents with outputs; what is infinite counts only where the cotangent is not 0."""
    pairs = ((to_float64(ct), to_float64(y)) for ct, y in zip(evidence.cotangents, outputs, strict=True))
    return math.fsum(float(np.real(np.sum(ct * np.where(ct == 0, 0, y)))) for ct, y in pairs)
