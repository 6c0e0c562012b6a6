"""What else a trace shows beside numbers that are not finite: cotangents that vanish or explode, and common mistakes.

Vanishing and exploding are judged by how the same equation changes from layer to layer, or from step to step of a
loop: a factor that is repeated is what a user can mend. There is no limit to the size of a gradient.
"""

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..jaxprs.types import is_var
from .recorder import Walk
from .records import Iteration, Place, Record
from .saturation import is_zero
from .statistics import Statistics, all_finite

FEWEST_REPEATS = 8
DECADES = 4.0  # by which the repeats must change the cotangent in all
AGREEMENT = 0.8  # of the steps must go the same way
MANY = 0.25  # of the elements
FEWEST_ELEMENTS = 8
SHOWS = 0.01  # of the root mean square of the whole: a rounding error that is smaller does not matter
SATURATED = 0.9  # of the elements of an activation, or of the rows of a softmax
UNLIKE = 4.0  # decades by which a gain differs from that of its peers


class Concern(enum.Enum):
    """Of what kind a finding is."""

    VANISHING = "vanishing"
    EXPLODING = "exploding"
    UNLIKE = "unlike its peers"
    SATURATED = "saturated"
    DEAD = "dead units"
    SAME_KEY = "same key twice"
    UNDERFLOW = "underflow"
    LOST = "rounded away"
    INTERNAL = "internal only"


@dataclass(frozen=True)
class Finding:
    """One thing to know. `factor`: of a vanishing or exploding cotangent, by which each repeat multiplies it."""

    concern: Concern
    place: Place
    sentence: str
    factor: float = math.nan

    def __str__(self) -> str:
        return f"{self.concern.value}: {self.sentence}, {self.place}"


def find_findings(walk: Walk) -> tuple[Finding, ...]:
    """All of one walk; those of kinds of the same line once."""
    recorder = walk.recorder
    found = [
        finding for look in (_repeats, _unlike, _dead, _saturated, _underflow) for finding in look(recorder.records)
    ]
    found += _keys(walk)
    found += [
        Finding(
            Concern.LOST, record.place, f"{record.primitive} of a small number changes nothing in {record.shapes[0]}"
        )
        for record, _ in recorder.lost
    ]
    return tuple({(f.concern, f.place[:2]): f for f in reversed([*found, *_internal(walk)])}.values())[::-1]


# ---------------------------------------------------------------- vanishing and exploding


class Series(NamedTuple):
    """The cotangents of one equation, repeated over layers or iterations, in the order of the backward walk."""

    record: Record
    what: str
    of: str
    sizes: np.ndarray  # log10 of the root mean square
    gains: np.ndarray  # log10 of what the equation itself multiplies it by

    @property
    def slope(self) -> float:
        """log10 of the factor of one repeat."""
        return float(np.median(np.diff(self.sizes)))

    @property
    def total(self) -> float:
        return float(self.sizes[-1] - self.sizes[0])

    @property
    def is_one_way(self) -> bool:
        return bool(np.mean(np.sign(np.diff(self.sizes)) == np.sign(self.total)) >= AGREEMENT)


def series(records: Iterable[Record]) -> list[Series]:
    """Of each equation in a loop, and of each line that many layers run through."""
    found, layers = [], {}
    for record in records:
        if record.entered or not record.cotangents:
            continue
        if len(record.cotangents) >= FEWEST_REPEATS:
            label = next((label for label in reversed(record.path) if label in ("scan", "while")), "loop")
            found.append(_series(record, f"step of the {label}", "of the carry", _sizes([record])))
        elif len(record.cotangents) == 1:
            layers.setdefault((record.place, record.primitive, record.shapes), []).append(record)
    for group in layers.values():
        if len(group) >= FEWEST_REPEATS:
            found.append(_series(group[0], "repeat of the line", "from the loss", _sizes(group[::-1])))
    return [s for s in found if len(s.sizes) >= FEWEST_REPEATS]


def _sizes(records: Sequence[Record]) -> list[tuple[float, float]]:
    """(rms of the incoming cotangent, of the largest term passed on), in the order of the backward walk."""
    pairs = []
    for record in records:
        for came, made in zip(record.cotangents, record.passed_on, strict=True):
            if came.size > 0:
                pairs.append((came.size, made.size))
    return pairs


def _series(record: Record, what: str, of: str, sizes: list[tuple[float, float]]) -> Series:
    came, made = np.array(sizes or [(1.0, 1.0)], np.float64).T
    with np.errstate(divide="ignore"):
        return Series(record, what, of, np.log10(came), np.log10(made) - np.log10(came))


def _repeats(records: Iterable[Record]) -> list[Finding]:
    """The strongest in each body: of the equations in it, that whose own gain explains the factor best."""
    strong: dict[tuple, list[Series]] = {}
    for s in series(records):
        if abs(s.total) >= DECADES and s.is_one_way:
            strong.setdefault((s.record.path, s.total > 0), []).append(s)
    found = []
    for (_, explodes), group in strong.items():
        longest = max(len(s.sizes) for s in group)
        group = [s for s in group if 2 * len(s.sizes) >= longest]
        best = min(group, key=lambda s: (abs(float(np.median(s.gains)) - s.slope), s.record.number))
        concern = Concern.EXPLODING if explodes else Concern.VANISHING
        factor = 10**best.slope
        inverse = "" if explodes else f", 1/{1 / factor:.3g},"
        sentence = (
            f"each {best.what} multiplies the cotangent {best.of} by {factor:.3g}{inverse} ({best.record.primitive}), "
            f"{len(best.sizes)} of them by 1e{best.total:+.0f}"
        )
        found.append(Finding(concern, best.record.place, sentence, factor))
    return found


def _unlike(records: Iterable[Record]) -> list[Finding]:
    """Equations whose gain is far from that of all others of their primitive."""
    peers: dict[str, list[tuple[Record, float]]] = {}
    for record in records:
        sizes = [] if record.entered else _sizes([record])
        gains = [math.log10(made / came) for came, made in sizes if 0 < made < math.inf]
        if gains:
            peers.setdefault(record.primitive, []).append((record, float(np.median(gains))))
    found = []
    for primitive, group in peers.items():
        usual = float(np.median([gain for _, gain in group]))
        if len(group) < FEWEST_REPEATS:
            continue
        for record, gain in group:
            others = [abs(other - usual) for peer, other in group if peer is not record]
            if abs(gain - usual) > UNLIKE + 2 * max(others):
                why = (
                    f"its gain is {10**gain:.2g}, where the {len(others)} other {primitive} have about {10**usual:.2g}"
                )
                found.append(Finding(Concern.UNLIKE, record.place, why, 10**gain))
    return found


# ---------------------------------------------------------------- common mistakes


def _dead(records: Iterable[Record]) -> list[Finding]:
    """Maxima with zero of which every element is zero."""
    found = []
    for record in records:
        seen = [s for values in record.values for s in values.of if s is not None]
        relu = record.primitive == "max" and any(is_zero(atom) for atom in record.equation.invars)
        if relu and seen and all(s.size >= FEWEST_ELEMENTS and s.zero == s.size for s in seen):
            found.append(Finding(Concern.DEAD, record.place, f"all of {record.shapes[0]} are zero: no gradient passes"))
    return found


def _saturated(records: Iterable[Record]) -> list[Finding]:
    """Activations that are saturated almost everywhere. (Of a maximum with zero, half is usual: see `_dead`.)"""
    found = []
    for record in records:
        sizes = [s.size for values in record.values for s in values.of if s is not None]
        if record.primitive == "max" or not record.saturated or max(sizes) < FEWEST_ELEMENTS:
            continue
        share, what = float(np.mean(record.saturated)), "rows of a softmax" if record.primitive == "div" else "elements"
        if share >= SATURATED:
            why = f"{share:.0%} of the {what} of {record.shapes[0]} are saturated: almost no gradient passes"
            found.append(Finding(Concern.SATURATED, record.place, why))
    return found


def _underflow(records: Sequence[Record]) -> list[Finding]:
    found = []
    makers = {(r.path, v): (r, i) for r in records for i, v in enumerate(r.equation.outvars)}
    for record in records:
        for came, made in zip(record.cotangents, record.passed_on, strict=True):
            before = came.of[0] if len(came.of) == 1 else None
            if record.entered or before is None:
                continue
            for target, after in zip(record.targets, made.of, strict=False):
                if after is None or not after.size:
                    continue
                lost = max(after.share_zero - before.share_zero, 0) if _keeps_zeros(record) else 0
                lost += after.tiny / after.size
                operand = record.equation.invars[target]
                if lost >= MANY and _shows(
                    operand.aval.dtype, after, makers.get((record.path, operand)), made.iteration
                ):
                    share = f"{lost:.0%} of the cotangent"
                    place, why = record.place, f"{share} of {record.primitive} falls below the smallest normal number"
                    found.append(Finding(Concern.UNDERFLOW, place, why))
    return found


def _shows(dtype: Any, term: Statistics, maker: tuple[Record, int] | None, iteration: Iteration) -> bool:
    """Whether the error of small numbers in a term of an operand's cotangent shows in the whole of it, which is known
    where the operand was made."""
    found = (s.of[maker[1]] for s in maker[0].cotangents if s.iteration == iteration) if maker else iter(())
    whole = next(found, None)
    return _error_of_small(dtype) >= SHOWS * max(term.rms, whole.rms if whole else 0.0)


def _error_of_small(dtype: Any) -> float:
    """The root mean square of the error of numbers below the smallest normal one, which a processor may take for zero;
    those of float16 are computed with as they are, and rounded."""
    info = jnp.finfo(dtype)
    return float(info.smallest_subnormal) / 12**0.5 if dtype == jnp.float16 else float(info.tiny)


def _keeps_zeros(record: Record) -> bool:
    """Whether a cotangent that is not zero is passed on as zero only by underflow: a cast to a narrower dtype, or a
    product with a number that is written in the program, and is not zero."""
    atoms = record.equation.invars
    if record.primitive == "convert_element_type":
        return atoms[0].aval.dtype.itemsize < record.equation.outvars[0].aval.dtype.itemsize
    return record.primitive == "mul" and not all(map(is_var, atoms)) and not any(map(is_zero, atoms))


def _keys(walk: Walk) -> list[Finding]:
    found = []
    for users in walk.recorder.keys.values():
        if len(users) > 1:
            first, second = users[0], users[1]
            at = f" at iterations {first[1]} and {second[1]}" if first[0] is second[0] else f", and {first[0].place}"
            found.append(Finding(Concern.SAME_KEY, second[0].place, f"the same random key is used twice{at}"))
    return found


def _internal(walk: Walk) -> list[Finding]:
    """A NaN that reaches neither the value nor the gradient."""
    leaves = [walk.value, *walk.gradients.values()]
    if not all(map(all_finite, leaves)):
        return []
    for moment in walk.recorder.moments:
        if moment.record is not None and moment.made == "nan" and moment.came != "nan":
            what = "cotangent" if moment.backward else "value"
            why = f"a {what} of {moment.record.primitive} is NaN, and is masked: it reaches neither value nor gradient"
            return [Finding(Concern.INTERNAL, moment.record.place, why)]
    return []
