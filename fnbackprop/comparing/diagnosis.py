"""What would diagnose a wrong gradient: simple changes under which it equals the reference up to rounding.

A hypothesis is reported only if its residual falls to noise; the simplest that does is taken.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .arrays import array_norm, to_float64
from .results import Hypothesis

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


def diagnose(manual: Any, reference: Any, noise: float, sizes: Mapping[int, str] | None = None) -> Hypothesis | None:
    """The simplest change of the reference that gives `manual`, or None.

    Args:
      manual, reference: arrays of one shape, finite.
      noise: the relative error that rounding explains.
      sizes: what a factor may be of, like {16: "axis 0", 8: "devices"}; the array's own axes are known anyway.
    """
    manual, reference = to_float64(manual), to_float64(reference)
    if not manual.size or manual.shape != reference.shape:
        return None
    size = array_norm(manual)
    if size == 0:
        return Hypothesis("manual is zero: this path is detached, or its cotangent is dropped", "zero", 0.0)
    if not array_norm(reference):
        return Hypothesis("the true gradient is zero here", "nonzero", math.inf)
    tolerance = max(4 * noise, 1e-12)
    for text, kind, changed, factor in _candidates(manual, reference, {} if sizes is None else sizes):
        residual = array_norm(manual - changed) / size
        if residual <= tolerance:
            return Hypothesis(text, kind, residual, factor)
    return _masked(manual, reference, tolerance) or _one_slice(manual, reference, tolerance)


def _candidates(manual: np.ndarray, reference: np.ndarray, sizes: Mapping[int, str]) -> Iterator[tuple]:
    """(text, kind, the changed reference, factor), the simplest first."""
    yield "the sign is turned", "sign", -reference, -1.0
    if np.iscomplexobj(manual) or np.iscomplexobj(reference):
        yield "the conjugate is forgotten", "conjugate", np.conj(reference), math.nan
        yield "the conjugate is forgotten, and the sign turned", "conjugate", -np.conj(reference), math.nan
        yield "the imaginary part is dropped", "real", np.real(reference) + 0j, math.nan
    factor = _factor(manual, reference)
    if factor:
        yield _scale_text(factor, reference.shape, sizes), "scale", factor * reference, factor
    small = reference.size <= MOST_ELEMENTS
    for text, kind, changed in _moved(reference) if small else ():
        yield text, kind, changed, math.nan
        factor = _factor(manual, changed)
        if factor:
            text = f"{text}, and {_scale_text(factor, reference.shape, sizes)}"
            yield text, kind, factor * changed, factor


def scale_hypothesis(factor: float, sizes: Mapping[int, str], residual: float) -> Hypothesis:
    """That manual is the reference times a factor."""
    if math.isclose(factor, -1, rel_tol=1e-3):
        return Hypothesis("the sign is turned", "sign", residual, -1.0)
    return Hypothesis(_scale_text(factor, (), sizes), "scale", residual, factor)


def _factor(manual: np.ndarray, reference: np.ndarray) -> float:
    """The factor of least squares."""
    top = np.max(np.abs(reference))
    if not top:
        return 0.0
    one, other = reference / top, manual / top
    below = np.vdot(one, one).real
    return float(np.vdot(one, other).real / below) if below > 0 else 0.0


def _scale_text(factor: float, shape: tuple[int, ...], sizes: Mapping[int, str]) -> str:
    """A factor in words: of manual to the reference."""
    said = f"manual = {factor:.4g} x automatic"
    size, sign = abs(factor), " and the sign is turned" if factor < 0 else ""

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


def _moved(reference: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """The reference with its elements in other places."""
    shape, axes = reference.shape, range(reference.ndim)
    for one, two in itertools.combinations(axes, 2):
        if shape[one] == shape[two] > 1:
            name = "transposed" if reference.ndim == 2 else f"transposed, axes {one} and {two}"
            yield name, "transpose", np.swapaxes(reference, one, two)
    for axis in axes:
        if shape[axis] < 2:
            continue
        yield f"reversed along axis {axis}", "flip", np.flip(reference, axis)
        for shift in (1, -1):
            yield f"roll {shift:+d} along axis {axis}", "roll", np.roll(reference, shift, axis)
            yield f"shifted by {shift:+d} along axis {axis}", "roll", _shifted(reference, shift, axis)
        mean = np.mean(reference, axis, keepdims=True)
        yield f"the mean over axis {axis} everywhere", "mean", np.broadcast_to(mean, shape)
        yield f"the sum over axis {axis} everywhere", "sum", np.broadcast_to(mean * shape[axis], shape)
        yield f"the mean over axis {axis} is taken off", "mean", reference - mean


def _shifted(array: np.ndarray, shift: int, axis: int) -> np.ndarray:
    """Rolled, with zero for what comes in."""
    rolled = np.roll(array, shift, axis)
    where = [slice(None)] * array.ndim
    where[axis] = 0 if shift > 0 else -1
    rolled[tuple(where)] = 0
    return rolled


def _masked(manual: np.ndarray, reference: np.ndarray, tolerance: float) -> Hypothesis | None:
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
        text = f"another mask: {missing} {of} are zero that should not be, {extra} should be and are not"
    elif missing:
        text = f"zero outside a mask: the cotangent is dropped at {missing} {of}"
    else:
        text = f"a mask is missing: {extra} {of} should be zero"
    if not math.isclose(factor, 1, rel_tol=max(tolerance, 1e-6)):
        text += f"; elsewhere manual = {factor:.4g} x automatic"
    return Hypothesis(text, "mask", residual, factor)


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
            return Hypothesis(f"wrong only at {where} of axis {axis}", "slice", rest)
        if 0 < length - len(wrong) <= length // 2:
            where = ", ".join(map(str, np.setdiff1d(np.arange(length), wrong)[:6]))
            return Hypothesis(f"right only at {where} of axis {axis}", "slice", math.nan)
    return None
