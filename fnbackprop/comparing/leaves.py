"""The leaves of two gradients, equal up to rounding if both are right: how far apart they are, and the verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop import trees

from .arrays import array_norm, distance, quotient, to_float64
from .diagnosis import diagnose
from .program import Program
from .results import MANUAL_AND_AUTOMATIC, LeafComparison, Sides, Verdict
from .tolerance import NOISE_LIMIT, ROUNDING, Noise, allowed_error


def compare_leaf(
    path: str,
    manual: Any,
    automatic: Any,
    floor: float,
    shaken: float,
    reference: Any = None,
    sizes: Mapping[int, str] | None = None,
    sides: Sides = MANUAL_AND_AUTOMATIC,
) -> LeafComparison:
    """The verdict on one leaf.

    Args:
      floor, shaken: relative to the gradient's norm, see `rounding_floor` and `Noise`.
      reference: the gradient in float64; without it, the automatic gradient is the reference.
      sizes: what a wrong factor may stem from, see `diagnosis.diagnose`.
      sides: what manual and automatic are called in the reason.
    """
    shape, dtype = np.shape(automatic), _dtype(automatic)
    facts = {"path": path, "shape": shape, "dtype": _dtype_name(automatic)}
    if not any(jax.dtypes.issubdtype(_dtype(leaf), np.inexact) for leaf in (manual, automatic)):
        return LeafComparison(**facts, verdict=Verdict.SKIPPED, reason="an integer, boolean or key has no gradient")
    if (np.shape(manual), _dtype(manual)) != (shape, dtype):
        found = (
            f"the {sides.manual} gradient is {_dtype_name(manual)}{list(np.shape(manual))}, "
            f"the {sides.automatic} {facts['dtype']}{list(shape)}"
        )
        return LeafComparison(**facts, verdict=Verdict.FAIL, reason=found)
    if not np.size(automatic):
        return LeafComparison(**facts, verdict=Verdict.PASS, reason="no elements")
    manual, automatic = to_float64(manual), to_float64(automatic)
    broken = _non_finite(manual, automatic, sides)
    if broken:
        ours_alone = bool(np.any(~np.isfinite(manual) & np.isfinite(automatic)))
        return LeafComparison(**facts, verdict=Verdict.FAIL if ours_alone else Verdict.NON_FINITE, reason=broken)
    if reference is None or not np.isfinite(reference).all():
        reference = automatic
    noise = Noise(shaken, distance(automatic, reference))
    if distance(manual, reference) <= allowed_error(floor, Noise(shaken)):
        noise = Noise(shaken)  # how far the automatic gradient is from the reference excuses nothing here
    return _verdict(facts, manual, reference, floor, noise, sizes, sides)


def _verdict(
    facts: dict,
    manual: np.ndarray,
    reference: np.ndarray,
    floor: float,
    noise: Noise,
    sizes: Mapping[int, str] | None,
    sides: Sides,
) -> LeafComparison:
    norm, manual_norm = array_norm(reference), array_norm(manual)
    if norm == 0 == manual_norm:
        return LeafComparison(**facts, verdict=Verdict.PASS, reason="both are exactly zero", norm=0.0, error=0.0)
    error, allowed = distance(manual, reference), allowed_error(floor, noise)
    numbers = {"norm": norm, "error": error, "allowed": allowed, "noise": noise.size}
    numbers |= {"ratio": quotient(manual_norm, norm), "cosine": _cosine(manual, reference)}
    numbers |= {"ulps": _ulps(manual, reference, facts["dtype"]), "worst": _worst(manual, reference)}
    verdict, reason = Verdict.PASS, ""
    if not error <= allowed:
        verdict, reason = Verdict.FAIL, _in_words(numbers["worst"], sides)
        numbers["hypothesis"] = diagnose(manual, reference, max(noise.size, allowed / ROUNDING), sizes, sides)
    elif allowed > NOISE_LIMIT:
        verdict, reason = Verdict.NOISE_LIMITED, _noise_in_words(noise, sides)
    return LeafComparison(**facts, verdict=verdict, reason=reason, **numbers)


def _worst(manual: np.ndarray, reference: np.ndarray) -> tuple[str, Any, Any]:
    """The index of the element that is farthest off, and both values."""
    index = np.unravel_index(np.argmax(np.abs(manual - reference)), manual.shape)
    return f"[{', '.join(map(str, index))}]" if index else "", manual[index].item(), reference[index].item()


def _in_words(worst: tuple[str, Any, Any], sides: Sides) -> str:
    where = f" at {worst[0]}" if worst[0] else ""
    return f"worst element{where}: {sides.manual} {worst[1]:.6g}, {sides.automatic} {worst[2]:.6g}"


def _noise_in_words(noise: Noise, sides: Sides) -> str:
    if noise.rounded <= noise.shaken:
        return f"rounding alone moves this gradient by {noise.shaken:.1e} of its norm"
    return f"the {sides.automatic} gradient is {noise.rounded:.1e} of its norm away from the one in float64"


def _ulps(manual: np.ndarray, reference: np.ndarray, dtype: str) -> tuple[float, float]:
    """The median and the largest distance of elements, in units in the last place of the reference."""
    limits = jnp.finfo(dtype)
    size = np.maximum(np.abs(reference), float(limits.tiny))
    unit = np.ldexp(float(limits.eps), np.frexp(size)[1] - 1)
    off = np.abs(manual - reference) / unit
    return float(np.median(off)), float(np.max(off))


def _non_finite(manual: np.ndarray, automatic: np.ndarray, sides: Sides) -> str:
    counts = [np.count_nonzero(~np.isfinite(array)) for array in (manual, automatic)]
    if not any(counts):
        return ""
    theirs = f", {counts[1]} of {sides.automatic}" if sides.automatic else ""
    return f"NaN or infinite: {counts[0]} elements of {sides.manual}{theirs}, of {manual.size}"


def _dtype(leaf: Any) -> np.dtype:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _dtype_name(leaf: Any) -> str:
    return "float0" if _dtype(leaf) == jax.dtypes.float0 else str(_dtype(leaf))


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    norms = array_norm(one), array_norm(two)
    if not all(norms):
        return np.nan
    return float(np.clip(np.real(np.vdot(one / norms[0], two / norms[1])), -1, 1))


# ---------------------------------------------------------------- leaves of a program


def structure_problems(manual: Any, automatic: Any, sides: Sides) -> tuple[str, ...]:
    """Empty, or what is wrong with the manual gradient's tree."""
    found, expected = jax.tree.structure(manual), jax.tree.structure(automatic)
    if found == expected:
        return ()
    return (f"the {sides.manual} gradient has the structure {found}, the {sides.automatic} {expected}",)


def data_sizes(program: Program) -> dict[int, str]:
    """What a wrong factor of a whole leaf may come from: the data's axes, the number of devices."""
    sizes = {jax.device_count(): "the number of devices"} if jax.device_count() > 1 else {}
    for other in program.others:
        for axis, count in enumerate(np.shape(other)[:2]):
            if count > 1:
                sizes.setdefault(count, f"axis {axis} of the data")
    return sizes


def leaf_paths(program: Program, gradients: Sequence[Any]) -> list[str]:
    """The path of every leaf of the gradients, a tree for each of the program's inputs."""
    return [path for i, tree in zip(program.argnums, gradients, strict=True) for path in _paths(program, i, tree)]


def _paths(program: Program, argnum: int, tree: Any) -> list[str]:
    """The leaves' paths, with the argument's position in front where it is needed to know which is meant."""
    paths = [path for path, _ in trees.leaves_with_paths(tree)]
    if len(program.argnums) == 1 and "" not in paths:
        return paths
    return ["/".join(filter(None, (f"args[{argnum}]", path))) for path in paths]
