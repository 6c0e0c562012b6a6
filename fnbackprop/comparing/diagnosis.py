"""What would explain a wrong gradient: simple changes under which it equals the reference up to rounding.

A hypothesis is reported only if its residual falls to noise; the simplest that does is taken.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .arrays import array_norm, to_float64
from .results import MANUAL_AND_AUTOMATIC, Cause, Hypothesis, Sides

MOST_ELEMENTS = 1 << 22  # beyond, the changes that move elements are tried on the first so many rows
SIMPLE = {
    2.0: "2",
    0.5: "1/2",
    3.0: "3",
    1 / 3: "1/3",
    4.0: "4",
    0.25: "1/4",
    math.log(2): "log 2",
    1 / math.log(2): "1/log 2",
}
SIMPLE |= {math.pi: "pi", 2 * math.pi: "2 pi", math.sqrt(2): "sqrt 2", math.sqrt(0.5): "1/sqrt 2"}


def diagnose(
    manual: Any,
    reference: Any,
    noise: float,
    sizes: Mapping[int, str] | None = None,
    sides: Sides = MANUAL_AND_AUTOMATIC,
) -> Hypothesis | None:
    """The simplest change of the reference that gives `manual`, or None.

    Args:
      manual, reference: arrays of one shape, finite.
      noise: the relative error that rounding explains.
      sizes: what a factor may stem from, like {16: "axis 0", 8: "devices"}; the array's own axes are known anyway.
      sides: what the two arrays are called in the text.
    """
    manual, reference = to_float64(manual), to_float64(reference)
    if not manual.size or manual.shape != reference.shape:
        return None
    size = array_norm(manual)
    if size == 0:
        return Hypothesis(
            f"{sides.manual} is zero: this path is detached, or its cotangent is dropped", Cause.ZERO, 0.0
        )
    if not array_norm(reference):
        return Hypothesis("the true gradient is zero here", Cause.NONZERO, math.inf)
    tolerance = max(4 * noise, 1e-12)
    for text, kind, changed, factor in _candidates(manual, reference, sizes or {}, sides):
        residual = array_norm(manual - changed) / size
        if residual <= tolerance:
            return Hypothesis(text, kind, residual, factor)
    return _masked(manual, reference, tolerance, sides) or _one_slice(manual, reference, tolerance)


def _candidates(
    manual: np.ndarray, reference: np.ndarray, sizes: Mapping[int, str], sides: Sides
) -> Iterator[tuple[str, Cause, np.ndarray, float]]:
    """(text, kind, the changed reference, factor), the simplest first."""
    yield "the sign is flipped", Cause.SIGN, -reference, -1.0
    if np.iscomplexobj(manual) or np.iscomplexobj(reference):
        yield "the conjugate is forgotten", Cause.CONJUGATE, np.conj(reference), math.nan
        yield "the conjugate is forgotten, and the sign is flipped", Cause.CONJUGATE, -np.conj(reference), math.nan
        yield "the imaginary part is dropped", Cause.REAL, np.real(reference) + 0j, math.nan
    factor = _factor(manual, reference)
    if factor:
        yield _scale_text(factor, reference.shape, sizes, sides), Cause.SCALE, factor * reference, factor
    small = reference.size <= MOST_ELEMENTS
    for text, kind, changed in _moved(reference) if small else ():
        yield text, kind, changed, math.nan
        factor = _factor(manual, changed)
        if factor:
            text = f"{text}, and {_scale_text(factor, reference.shape, sizes, sides)}"
            yield text, kind, factor * changed, factor


def scale_hypothesis(
    factor: float, sizes: Mapping[int, str], residual: float, sides: Sides = MANUAL_AND_AUTOMATIC
) -> Hypothesis:
    """The hypothesis that the first side's cotangent is the second's times a factor."""
    if math.isclose(factor, -1, rel_tol=1e-3):
        return Hypothesis("the sign is flipped", Cause.SIGN, residual, -1.0)
    return Hypothesis(_scale_text(factor, (), sizes, sides), Cause.SCALE, residual, factor)


def _factor(manual: np.ndarray, reference: np.ndarray) -> float:
    """The factor of least squares."""
    top = np.max(np.abs(reference))
    if not top:
        return 0.0
    one, other = reference / top, manual / top
    below = np.vdot(one, one).real
    return float(np.vdot(one, other).real / below) if below > 0 else 0.0


def _scale_text(factor: float, shape: tuple[int, ...], sizes: Mapping[int, str], sides: Sides) -> str:
    """A factor in words: of manual to the reference."""
    said = f"{sides.manual} = {factor:.4g} x {sides.automatic}"
    size, sign = abs(factor), " and the sign is flipped" if factor < 0 else ""

    def near(value: float) -> bool:
        return math.isclose(size, value, rel_tol=2e-3)

    for count, what in sizes.items():
        if count > 1 and near(1 / count):
            return f"mean for sum, {what}: {said}{sign}"
        if count > 1 and near(count):
            return f"sum for mean, {what}: {said}{sign}"
    for value, name in SIMPLE.items():
        if near(value):
            inverse = next((n for v, n in SIMPLE.items() if math.isclose(v * value, 1)), f"1/{name}")
            return f"a factor {inverse} is missing: {said}{sign}"
    known = {**{n: f"axis {i}" for i, n in enumerate(shape)}, **sizes}
    for count, what in known.items():
        for value, name in ((count, f"{count}"), (math.sqrt(count), f"sqrt {count}")):
            if count > 2 and near(value):
                return f"a factor 1/{name} is missing ({what}): {said}{sign}"
            if count > 2 and near(1 / value):
                return f"a factor {name} is missing ({what}): {said}{sign}"
    return f"a factor is wrong: {said}"


def _moved(reference: np.ndarray) -> Iterator[tuple[str, Cause, np.ndarray]]:
    """The reference with its elements in other places."""
    shape, axes = reference.shape, range(reference.ndim)
    for one, two in itertools.combinations(axes, 2):
        if shape[one] == shape[two] > 1:
            name = "transposed" if reference.ndim == 2 else f"transposed, axes {one} and {two}"
            yield name, Cause.TRANSPOSE, np.swapaxes(reference, one, two)
    for axis in axes:
        if shape[axis] < 2:
            continue
        yield f"reversed along axis {axis}", Cause.FLIP, np.flip(reference, axis)
        for shift in (1, -1):
            yield f"roll {shift:+d} along axis {axis}", Cause.ROLL, np.roll(reference, shift, axis)
            yield f"shifted by {shift:+d} along axis {axis}", Cause.ROLL, _shifted(reference, shift, axis)
        mean = np.mean(reference, axis, keepdims=True)
        yield f"the mean over axis {axis} everywhere", Cause.MEAN, np.broadcast_to(mean, shape)
        yield f"the sum over axis {axis} everywhere", Cause.SUM, np.broadcast_to(mean * shape[axis], shape)
        yield f"the mean over axis {axis} is subtracted", Cause.MEAN, reference - mean


def _shifted(array: np.ndarray, shift: int, axis: int) -> np.ndarray:
    """Rolled, with zero for what comes in."""
    rolled = np.roll(array, shift, axis)
    where = [slice(None)] * array.ndim
    where[axis] = 0 if shift > 0 else -1
    rolled[tuple(where)] = 0
    return rolled


def _masked(manual: np.ndarray, reference: np.ndarray, tolerance: float, sides: Sides) -> Hypothesis | None:
    """Equal wherever both are not zero: a mask is missing, too much, or another one."""
    ours, theirs = manual != 0, reference != 0
    both = ours & theirs
    missing, extra = int(np.sum(theirs & ~ours)), int(np.sum(ours & ~theirs))
    if not (missing or extra) or not both.any():
        return None
    factor = _factor(manual[both], reference[both])
    residual = array_norm(manual[both] - factor * reference[both]) / array_norm(manual[both])
    if residual > tolerance:
        return None
    of = f"of {manual.size} elements"
    if missing and extra:
        text = f"a different mask: {missing} {of} are zero that should not be, {extra} should be and are not"
    elif missing:
        text = f"zero outside a mask: the cotangent is dropped at {missing} {of}"
    else:
        text = f"a mask is missing: {extra} {of} should be zero"
    if not math.isclose(factor, 1, rel_tol=max(tolerance, 1e-6)):
        text += f"; elsewhere {sides.manual} = {factor:.4g} x {sides.automatic}"
    return Hypothesis(text, Cause.MASK, residual, factor)


def _one_slice(manual: np.ndarray, reference: np.ndarray, tolerance: float) -> Hypothesis | None:
    """Equal but for one end of an axis, or some of its rows."""
    for axis, length in enumerate(manual.shape):
        if length < 3:
            continue
        others = tuple(i for i in range(manual.ndim) if i != axis)
        off = np.sqrt(np.sum(np.abs(manual - reference) ** 2, axis=others))
        scale = array_norm(reference) / math.sqrt(length)
        wrong = np.flatnonzero(off > max(tolerance, 1e-12) * scale)
        if 0 < len(wrong) <= max(1, length // 2):
            where = ", ".join(map(str, wrong[:6])) + (", ..." if len(wrong) > 6 else "")
            right = np.setdiff1d(np.arange(length), wrong)
            rest = array_norm(np.take(manual - reference, right, axis)) / max(array_norm(manual), 1e-300)
            return Hypothesis(f"wrong only at {where} of axis {axis}", Cause.SLICE, rest)
        if 0 < length - len(wrong) <= length // 2:
            where = ", ".join(map(str, np.setdiff1d(np.arange(length), wrong)[:6]))
            return Hypothesis(f"right only at {where} of axis {axis}", Cause.SLICE, math.nan)
    return None
