"""Two arrays that should be equal up to rounding: how far apart they are, and the verdict on that."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .arrays import array_norm, to_float64
from .arrays import over as _over
from .diagnosis import diagnose
from .program import RoundingFacts, unit_roundoff
from .results import NOISE_LIMIT, LeafComparison, Verdict

ROUNDING = 4.0  # c: roundings of a sum of n terms add up to about c u sqrt(n)
NOISE = 4.0  # two shaken samples see the size of the noise to within this factor
NOISE_TOO = 2.0  # where the float64 reference tells of the noise as well; it may be small by luck
SAME_PRECISION = 3.0  # K: how much worse than the automatic gradient the manual one may be, against float64


class Noise(NamedTuple):
    """What rounding does to a gradient, relative to its norm.

    Attributes:
      shaken: how far the automatic gradient moves when the last bit of every input changes.
      rounded: the automatic gradient's distance from the float64 reference; 0 where there is none.
    """

    shaken: float = 0.0
    rounded: float = 0.0

    @property
    def size(self) -> float:
        return max(self.shaken, self.rounded)


def allowed_error(floor: float, noise: Noise) -> float:
    """The largest of the rounding floor and the noise times K; nothing absolute: a tiny gradient is held to it too."""
    return max(floor, (NOISE_TOO if noise.rounded else NOISE) * noise.shaken, SAME_PRECISION * noise.rounded)


def rounding_floor(facts: RoundingFacts) -> float:
    """c (u_acc sqrt(n) + u): sums of n terms are taken in float32 at least, results kept in the coarsest precision."""
    return ROUNDING * (min(facts.roundoff, unit_roundoff("float32")) * math.sqrt(facts.terms) + facts.roundoff)


def compare_leaf(
    path: str,
    manual: Any,
    automatic: Any,
    floor: float,
    shaken: float,
    reference: Any = None,
    sizes: Mapping[int, str] | None = None,
) -> LeafComparison:
    """The verdict on one leaf.

    Args:
      floor, shaken: relative to the gradient's norm, see `rounding_floor` and `Noise`.
      reference: the gradient in float64; without it, the automatic gradient is the reference.
      sizes: what a wrong factor may be of, see `hypotheses.diagnose`.
    """
    shape, dtype = np.shape(automatic), _dtype(automatic)
    facts = {"path": path, "shape": shape, "dtype": str(dtype)}
    if dtype == jax.dtypes.float0 or not jax.dtypes.issubdtype(dtype, np.inexact):
        return LeafComparison(**facts, verdict=Verdict.SKIPPED, reason="an integer, boolean or key has no gradient")
    if (np.shape(manual), _dtype(manual)) != (shape, dtype):
        found = f"the manual gradient is {_dtype(manual)}{list(np.shape(manual))}, the automatic {dtype}{list(shape)}"
        return LeafComparison(**facts, verdict=Verdict.FAIL, reason=found)
    if not np.size(automatic):
        return LeafComparison(**facts, verdict=Verdict.PASS, reason="no elements")
    manual, automatic = to_float64(manual), to_float64(automatic)
    broken = _non_finite(manual, automatic)
    if broken:
        ours_alone = bool(np.any(~np.isfinite(manual) & np.isfinite(automatic)))
        return LeafComparison(**facts, verdict=Verdict.FAIL if ours_alone else Verdict.NON_FINITE, reason=broken)
    if reference is None or not np.isfinite(reference).all():
        reference = automatic
    noise = Noise(shaken, _over(array_norm(automatic - reference), array_norm(reference)))
    return _judge(facts, manual, reference, allowed_error(floor, noise), noise.size, sizes)


def relative_error(found: Any, reference: Any) -> float:
    """The norm of the difference over the reference's norm; 0 for two zeros, inf beside a zero, NaN if not finite."""
    found, reference = to_float64(found), to_float64(reference)
    if not (np.isfinite(found).all() and np.isfinite(reference).all()):
        return np.nan
    return _over(array_norm(found - reference), array_norm(reference))


def _judge(
    facts: dict, manual: np.ndarray, reference: np.ndarray, allowed: float, noise: float, sizes: Mapping | None
) -> LeafComparison:
    norm, manual_norm = array_norm(reference), array_norm(manual)
    if norm == 0 == manual_norm:
        return LeafComparison(**facts, verdict=Verdict.PASS, reason="both are exactly zero", norm=0.0, error=0.0)
    error = _over(array_norm(manual - reference), norm)
    numbers = {"norm": norm, "error": error, "allowed": allowed, "noise": noise}
    numbers |= {"ratio": _over(manual_norm, norm), "cosine": _cosine(manual, reference)}
    numbers |= {"ulps": _ulps(manual, reference, facts["dtype"]), "worst": _worst(manual, reference)}
    verdict, reason = Verdict.PASS, ""
    if not error <= allowed:
        verdict, reason = Verdict.FAIL, _in_words(numbers["worst"])
        numbers["hypothesis"] = diagnose(manual, reference, max(noise, allowed / ROUNDING), sizes)
    elif allowed > NOISE_LIMIT:
        verdict, reason = Verdict.NOISE_LIMITED, f"rounding alone moves this gradient by {noise:.1e} of its norm"
    return LeafComparison(**facts, verdict=verdict, reason=reason, **numbers)


def _worst(manual: np.ndarray, reference: np.ndarray) -> tuple[str, Any, Any]:
    """The index of the element that is farthest off, and both values."""
    index = np.unravel_index(np.argmax(np.abs(manual - reference)), manual.shape)
    return f"[{', '.join(map(str, index))}]" if index else "", manual[index].item(), reference[index].item()


def _in_words(worst: tuple[str, Any, Any]) -> str:
    where = f" at {worst[0]}" if worst[0] else ""
    return f"worst element{where}: manual {worst[1]:.6g}, automatic {worst[2]:.6g}"


def _ulps(manual: np.ndarray, reference: np.ndarray, dtype: str) -> tuple[float, float]:
    """The median and the largest distance of elements, in units in the last place of the reference."""
    limits = jnp.finfo(dtype)
    size = np.maximum(np.abs(reference), float(limits.tiny))
    unit = np.ldexp(float(limits.eps), np.frexp(size)[1] - 1)
    off = np.abs(manual - reference) / unit
    return float(np.median(off)), float(np.max(off))


def _non_finite(manual: np.ndarray, automatic: np.ndarray) -> str:
    counts = [np.count_nonzero(~np.isfinite(array)) for array in (manual, automatic)]
    if not any(counts):
        return ""
    return f"NaN or infinite: {counts[0]} elements of manual, {counts[1]} of automatic, of {manual.size}"


def _dtype(leaf: Any) -> np.dtype:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    norms = array_norm(one), array_norm(two)
    if not all(norms):
        return np.nan
    return float(np.clip(np.real(np.vdot(one / norms[0], two / norms[1])), -1, 1))
