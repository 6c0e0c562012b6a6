"""The verdict on one equation: whether a difference is rounding, and if not, whose, and what would diagnose it."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fnbackprop.backprop.registry import lookup
from fnbackprop.jaxprs.avals import operand_avals, output_avals
from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.evaluate import source_line

from ..arrays import array_norm, over, to_float64
from ..diagnosis import diagnose
from ..gradient_sources import shaken
from ..leaves import NOISE, SAME_PRECISION
from ..numeric.slopes import Slopes, shape_of
from ..program import facts_of_equation
from ..results import EquationComparison, Hypothesis, Verdict
from ..show.status_line import first_line
from ..show.text import OF_THE_USER
from .check import COMPILED, EXACT, CotangentPair, EquationCheck, cotangents_in_float64, float64_function, floor_of

LENGTHS = 4e-6 * 2.0 ** -np.arange(5)  # of steps in float64, relative to the operand's size
LUCK = 1e-6  # how often a right rule may be accused because the automatic one was lucky in its rounding


class Location(NamedTuple):
    """Where an equation stands.

    Attributes:
      line: its own in the user's code; of what a library's function holds, that of the call.
      within: the loops and branches around it, like "scan[12]/cond[1]".
    """

    line: str = ""
    within: str = ""

    def at(self, equation: Any) -> "Location":
        return Location(source_line(equation) or self.line, self.within)

    def inside(self, what: str) -> "Location":
        return Location(self.line, f"{self.within}/{what}" if self.within else what)


def equation_verdict(
    check: EquationCheck,
    operands: Sequence[Any],
    cts: Sequence[Any],
    found: Sequence[CotangentPair],
    kind: str,
    location: Location,
) -> list[EquationComparison]:
    """The operands whose manual cotangent is wrong; empty if the rule is right."""
    floor, wrong = None, []
    if all(one.error == 0 for one in found):
        return wrong
    floor = floor_of(check.equation)
    suspects = [i for i, one in enumerate(found) if not one.error <= floor]
    if not suspects:
        return wrong
    exact = _exactly(check, operands, cts)
    for i in suspects:
        moved = partial(_shaken_noise, check, operands, cts, found, i)
        reason, ours, theirs, noise = _difference(check, found[i], exact, i, floor, moved)
        if not reason:
            continue
        agrees = (
            differences(check, operands, cts, i, ours, theirs)
            if np.isfinite(ours).all()
            else Opinion("", Verdict.SKIPPED, "")
        )
        if agrees.who in ("manual", "both") and reason == WRONG:
            continue
        said = _cotangent_hypothesis(check, operands, cts, found, i, 10 * floor)
        if said is None and np.isfinite(ours).all() and np.isfinite(theirs).all():
            said = diagnose(ours, theirs, noise, sizes_of(check.equation, check.targets[i]))
        wrong.append(_comparison(check, i, kind, location, reason, ours, theirs, floor, said, agrees))
    return wrong


WRONG = "the rule and the automatic derivative differ"


def _exactly(check: EquationCheck, operands: Sequence[Any], cts: Sequence[Any]) -> tuple[Any, Any]:
    """Both sides in float64, or (None, None) where the equation cannot be run so."""
    try:
        return cotangents_in_float64(check, operands, cts)
    except Exception:  # what stands in the equation is the user's, and may refuse other types in any way
        return None, None


def _difference(
    check: EquationCheck, found: CotangentPair, exact: tuple[Any, Any], i: int, floor: float, moved: Callable[[], float]
) -> tuple[str, np.ndarray, np.ndarray, float]:
    """(the reason, or empty if it is rounding; both sides; the noise in them)."""
    first, second = to_float64(found.first), to_float64(found.second)
    ours, theirs = np.isfinite(first), np.isfinite(second)
    if not (ours.all() and theirs.all()):
        if bool(np.any(theirs & ~ours)):
            return "NaN or infinite where the automatic derivative is finite", first, second, floor
        first, second = np.where(theirs, first, 0), np.where(theirs, second, 0)
        off = over(array_norm(first - second), array_norm(second))
        return ("" if off <= 10 * floor else WRONG), first, second, floor
    firsts, seconds = exact
    error = over(array_norm(first - second), array_norm(second))
    if seconds is None or not np.isfinite(seconds[i]).all():
        return ("" if error <= 10 * floor else WRONG), first, second, floor
    reference = seconds[i]
    low = not check.users_mode or found.first.dtype.itemsize < 8
    if firsts is not None and np.isfinite(firsts[i]).all():
        off = over(array_norm(firsts[i] - reference), array_norm(reference))
        limit = EXACT if low else 1e3 * EXACT
        if off > limit and off > 1e-3 * min(error, 1.0):  # rounding in float64 would be smaller by 1e-8
            return WRONG, firsts[i], reference, 1e-12 if low else EXACT
    noise = over(array_norm(second - reference), array_norm(reference))
    off = over(array_norm(first - reference), array_norm(reference))
    if off <= max(2 * floor, luck(first.size) * noise):
        return "", first, second, noise
    if not low and off <= NOISE * (noise := moved()):  # nothing finer than float64 tells of its rounding
        return "", first, second, noise
    if firsts is not None:
        reason = f"the sums lose precision: {off:.1e} from float64, the automatic derivative {noise:.1e}"
        return reason, first, reference, noise
    return WRONG, first, reference, max(noise, floor)


def _shaken_noise(
    check: EquationCheck, operands: Sequence[Any], cts: Sequence[Any], found: Sequence[CotangentPair], i: int
):
    """How far the automatic cotangent moves, relatively, when the last bit of every operand and cotangent changes."""
    roundoff = facts_of_equation(check.equation).roundoff
    samples = (shaken((list(operands), list(cts)), sample, roundoff) for sample in range(2))
    moved = [COMPILED.both(check, *sample)[i].second for sample in samples]
    second = to_float64(found[i].second)
    return max(over(array_norm(to_float64(one) - second), array_norm(second)) for one in moved)


def luck(size: int) -> float:
    """How many times the automatic derivative's rounding error the manual one's may be: K, more for few elements.

    The ratio of two norms of `size` Gaussians exceeds the square root of F's quantile with probability LUCK.
    """
    from scipy.special import fdtri

    return max(SAME_PRECISION, math.sqrt(fdtri(size, size, 1 - LUCK)))


# ---------------------------------------------------------------- a user's rule against its primal


class Opinion(NamedTuple):
    """What differences of the equation say.

    Attributes:
      who: "manual", "automatic", "both", "neither", or "" where they can say nothing.
      shape: whether the equation is smooth along the direction, see `slopes.shape_of`; reason: in words.
    """

    who: str
    shape: Verdict
    reason: str


def custom_rule_verdict(
    check: EquationCheck,
    operands: Sequence[Any],
    cts: Sequence[Any],
    kind: str,
    location: Location,
    intended: Sequence[str],
) -> tuple[list[EquationComparison], list[str], list[str]]:
    """A user's rule against the derivative of its primal: (what is wrong, what is replaced on purpose, notes)."""
    name, where = users_name(check.equation), location.line
    try:
        found = COMPILED.both(check, operands, cts)
    except Exception as error:
        note = f"{name} at {where} was not held against its primal: {first_line(error)}"
        return [], [], [note]
    floor = floor_of(check.equation)
    suspects = [i for i, one in enumerate(found) if not one.error <= floor]
    if not suspects:
        return [], [], []
    exact, wrong = _exactly(check, operands, cts), []
    for i in suspects:
        second = to_float64(found[i].second)
        broken = not np.isfinite(second).all()
        moved = partial(_shaken_noise, check, operands, cts, found, i)
        reason, ours, theirs, noise = _difference(check, found[i], exact, i, floor, moved)
        if not reason and not broken:
            continue
        agrees = differences(check, operands, cts, i, ours, theirs)
        if agrees.who in ("manual", "both") or agrees.shape is not Verdict.PASS or broken and agrees.who != "automatic":
            continue
        if name in intended:
            return [], [f"{name} at {where}: its rule differs from its primal's derivative, as declared"], []
        if array_norm(theirs) == 0 and array_norm(ours) > 0:
            return [], [f"{name} at {where}: its primal has no derivative, its rule gives one (straight through)"], []
        said = diagnose(ours, theirs, noise, sizes_of(check.equation, check.targets[i]))
        said = said or _cotangent_hypothesis(check, operands, cts, found, i, 10 * floor)
        text = OF_THE_USER if reason in (WRONG, "") else reason
        wrong.append(_comparison(check, i, kind, location, text, ours, theirs, floor, said, agrees))
    return wrong, [], []


def users_name(equation: Any) -> str:
    """The name of the function that a custom rule belongs to."""
    params = equation.params
    closed = params["jaxpr"] if "jaxpr" in params else params.get("call_jaxpr")
    info = getattr(getattr(closed, "jaxpr", closed), "debug_info", None)
    name = params.get("name") or str(getattr(info, "func_src_info", "")).split(" at ")[0]
    return name or equation.primitive.name


# ---------------------------------------------------------------- who is right


def differences(
    check: EquationCheck, operands: Sequence[Any], cts: Sequence[Any], i: int, ours: np.ndarray, theirs: np.ndarray
) -> Opinion:
    """Differences of the equation itself in float64 along one Gaussian direction of the i-th active operand."""
    position = check.targets[i]
    try:
        with jax.enable_x64(True):
            return _differences(check, operands, cts, i, to_float64(operands[position]), ours, theirs)
    except Exception:  # it cannot be run in float64
        return Opinion("", Verdict.PASS, "")


def _differences(check, operands, cts, i, centre, ours, theirs) -> Opinion:
    function, cts = float64_function(check, operands, frozen=False), list(map(to_float64, cts))
    moving = [to_float64(operands[j]) for j in check.targets]
    numbers = np.random.default_rng(0).standard_normal((2, *centre.shape))
    direction = numbers[0] + 1j * numbers[1] if np.iscomplexobj(centre) else numbers[0]
    direction = direction * (array_norm(centre) / math.sqrt(max(centre.size, 1)) or 1.0)

    def along(length):
        moved = list(moving)
        moved[i] = centre + length.astype(direction.dtype) * direction
        return sum(jax.numpy.sum(jax.numpy.real(ct * y)) for ct, y in zip(cts, function(*moved), strict=True))

    values = np.asarray(
        jax.jit(lambda lengths: jax.lax.map(along, lengths), compiler_options=quick_compilation())(
            np.array([0.0, *LENGTHS, *-LENGTHS])
        )
    )
    count = len(LENGTHS)
    size = max(array_norm(theirs), array_norm(ours)) * array_norm(direction) / math.sqrt(max(centre.size, 1))
    rounding = 1e-15 * max(abs(values[0]), size)
    slopes = Slopes(LENGTHS, values[0], values[1 : count + 1], values[count + 1 :], rounding)
    shape, reason = shape_of(slopes, 1e-4 * size)
    centrals = slopes.central
    spread = abs(centrals[0] - centrals[2]) + rounding / LENGTHS[2]
    allowed = 10 * spread + 1e-7 * size
    near = [abs(np.sum(np.real(side * direction)) - centrals[2]) <= allowed for side in (ours, theirs)]
    who = {(True, True): "both", (True, False): "manual", (False, True): "automatic"}.get(tuple(near), "neither")
    return Opinion(who, shape, reason)


# ---------------------------------------------------------------- in words


def _comparison(check, i, kind, location, reason, ours, theirs, floor, said, agrees) -> EquationComparison:
    equation, position = check.equation, check.targets[i]
    with np.errstate(invalid="ignore", over="ignore"):
        error, ratio = over(array_norm(ours - theirs), array_norm(theirs)), over(array_norm(ours), array_norm(theirs))
    name = users_name(equation) if check.primal else rule_name(equation, position)
    if agrees.reason:
        reason = f"{reason}; {agrees.reason}"
    return EquationComparison(
        primitive=equation.primitive.name, name=name, where=location.line, within=location.within,
        operand=position, cotangent=kind, verdict=Verdict.FAIL, reason=reason, error=error, allowed=floor,
        ratio=ratio, hypothesis=said, numeric=agrees.who,
    )  # fmt: skip


def rule_name(equation: Any, position: int) -> str:
    """The hand-written function that gives this operand's cotangent."""
    entry = lookup(equation.primitive)
    rule = entry.rule_for(position) if entry else None
    if rule is not None:
        return rule.name
    return entry.structured.__name__ if entry and entry.structured else equation.primitive.name


def sizes_of(equation: Any, position: int) -> dict[int, str]:
    """What a wrong factor may come from: sizes of axes that the operand has not, products of them, device counts."""
    own = equation.invars[position].aval.shape
    sizes = {jax.device_count(): "the number of devices"} if jax.device_count() > 1 else {}
    for aval in (*operand_avals(equation), *output_avals(equation)):
        for axis, count in enumerate(getattr(aval, "shape", ())):
            if count > 1 and aval.shape != own:
                sizes.setdefault(count, f"axis {axis}")
    if "length" in equation.params:
        sizes[equation.params["length"]] = "the steps of the loop"
    return sizes


def _cotangent_hypothesis(
    check: EquationCheck,
    operands: Sequence[Any],
    cts: Sequence[Any],
    found: Sequence[CotangentPair],
    i: int,
    tolerance: float,
) -> Hypothesis | None:
    """Whether a cotangent is ignored, or two operands' cotangents are exchanged."""
    first = to_float64(found[i].first)
    size = array_norm(first)
    if not (np.isfinite(first).all() and size):
        return None
    for j, other in enumerate(found):
        same = j != i and np.shape(other.second) == first.shape
        if same and array_norm(first - to_float64(other.second)) <= tolerance * size:
            i, j = check.targets[i], check.targets[j]
            return Hypothesis(f"the cotangent of operand {j} is given to operand {i}", "swap", 0.0)
    doubled = to_float64(COMPILED.both(check, operands, [ct * 2 for ct in cts])[i].first)
    if array_norm(first - doubled) <= tolerance * size:
        return Hypothesis("the cotangent is ignored", "ignored", 0.0)
    for j in range(len(cts)) if len(cts) > 1 else ():
        without = [jax.numpy.zeros_like(ct) if k == j else ct for k, ct in enumerate(cts)]
        left = to_float64(COMPILED.both(check, operands, without)[i].second)
        residual = over(array_norm(first - left), size)
        if residual <= tolerance:
            return Hypothesis(f"the cotangent of output {j} is ignored", "ignored", residual)
    return None
