"""Two arrays that should be equal up to rounding: how far apart they are, and the verdict on that."""

from typing import Any

import jax
import numpy as np

from .verdict import NOISE_LIMIT, LeafComparison, Verdict

ROUNDING = 4.0  # c: roundings of a sum of n terms add up to about c u sqrt(n)
NOISE = 4.0  # K: two samples of the noise see its size to within this factor


def allowed_error(floor: float, noise: float) -> float:
    """The larger of the rounding floor and the noise times K; nothing absolute: a tiny gradient is held to it too."""
    return max(floor, NOISE * noise)


def compare_leaf(path: str, manual: Any, automatic: Any, floor: float, noise: float) -> LeafComparison:
    """The verdict on one leaf; `floor` and `noise` are relative to the automatic gradient's norm."""
    shape, dtype = np.shape(automatic), _dtype(automatic)
    facts = {"path": path, "shape": shape, "dtype": str(dtype)}
    if dtype == jax.dtypes.float0 or not jax.dtypes.issubdtype(dtype, np.inexact):
        return LeafComparison(**facts, verdict=Verdict.SKIPPED, reason="an integer, boolean or key has no gradient")
    if (np.shape(manual), _dtype(manual)) != (shape, dtype):
        found = f"the manual gradient is {_dtype(manual)}{list(np.shape(manual))}, the automatic {dtype}{list(shape)}"
        return LeafComparison(**facts, verdict=Verdict.FAIL, reason=found)
    if not np.size(automatic):
        return LeafComparison(**facts, verdict=Verdict.PASS, reason="no elements")
    manual, automatic = wide(manual), wide(automatic)
    broken = _non_finite(manual, automatic)
    if broken:
        return LeafComparison(**facts, verdict=Verdict.NON_FINITE, reason=broken)
    return _judge(facts, manual, automatic, allowed_error(floor, noise), noise)


def relative_error(found: Any, reference: Any) -> float:
    """The norm of the difference over the reference's norm; 0 for two zeros, inf beside a zero, NaN if not finite."""
    found, reference = wide(found), wide(reference)
    if not (np.isfinite(found).all() and np.isfinite(reference).all()):
        return np.nan
    return _over(array_norm(found - reference), array_norm(reference))


def _judge(facts: dict, manual: np.ndarray, automatic: np.ndarray, allowed: float, noise: float) -> LeafComparison:
    norm, manual_norm = array_norm(automatic), array_norm(manual)
    if norm == 0 == manual_norm:
        return LeafComparison(**facts, verdict=Verdict.PASS, reason="both are exactly zero", norm=0.0, error=0.0)
    error = _over(array_norm(manual - automatic), norm)
    numbers = {"norm": norm, "error": error, "allowed": allowed, "noise": noise}
    numbers |= {"ratio": _over(manual_norm, norm), "cosine": _cosine(manual, automatic)}
    verdict, reason = Verdict.PASS, ""
    if not error <= allowed:
        verdict, reason = Verdict.FAIL, _worst_element(manual, automatic)
    elif allowed > NOISE_LIMIT:
        verdict, reason = Verdict.NOISE_LIMITED, f"rounding alone moves this gradient by {noise:.1e} of its norm"
    return LeafComparison(**facts, verdict=verdict, reason=reason, **numbers)


def _worst_element(manual: np.ndarray, automatic: np.ndarray) -> str:
    index = np.unravel_index(np.argmax(np.abs(manual - automatic)), manual.shape)
    where = f" at [{', '.join(map(str, index))}]" if index else ""
    return f"worst element{where}: manual {manual[index]:.6g}, automatic {automatic[index]:.6g}"


def _non_finite(manual: np.ndarray, automatic: np.ndarray) -> str:
    counts = [np.count_nonzero(~np.isfinite(array)) for array in (manual, automatic)]
    if not any(counts):
        return ""
    return f"NaN or infinite: {counts[0]} elements of manual, {counts[1]} of automatic, of {manual.size}"


def _dtype(leaf: Any) -> np.dtype:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def wide(leaf: Any) -> np.ndarray:
    """The array in float64 or complex128."""
    array = np.asarray(leaf)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def array_norm(array: Any) -> float:
    """The Euclidean norm, scaled by the largest element, so neither 1e-200 nor 1e200 is lost in its square."""
    array = wide(array)
    largest = float(np.max(np.abs(array), initial=0.0))
    return largest * float(np.linalg.norm((array / largest).ravel())) if 0 < largest < np.inf else largest


def _over(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return 0.0 if numerator == 0 else np.inf
    return numerator / denominator


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    norms = array_norm(one), array_norm(two)
    if not all(norms):
        return np.nan
    return float(np.clip(np.real(np.vdot(one / norms[0], two / norms[1])), -1, 1))
