"""Arbitration: where manual and automatic differ and differences agree with manual alone, JAX's derivative is wrong.

That happens (JAX 0.10.2): the sign of a complex number, `x.at[i].min` with clipped indices, a reduction whose function
does not commute, `all_gather` to one value without checked types. The manual gradient is right then, as far as
differences can tell, and is not to be accused.
"""

import dataclasses
import math
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..arrays import array_norm, is_floating, to_float64
from ..results import (
    Check,
    EquationComparison,
    EquationKind,
    LeafComparison,
    NumericComparison,
    Property,
    Verdict,
)
from .directions import DirectionalEvaluator
from .slopes import best_step, shape_of

DISPUTED = (Verdict.FAIL, Verdict.NON_FINITE)
ALIKE = "manual and automatic agree, but differences along this leaf alone agree with neither"
TELLS_NOTHING = "both gradients use the user's rule that is wrong: that they agree tells nothing"
REASON = "the automatic derivative is wrong here: differences of the function agree with manual alone"


class LeafNumeric(NamedTuple):
    """One leaf by itself: whether its differences agree with manual and automatic, and the bound on its error."""

    manual: bool
    automatic: bool
    bound: float


def with_differences(
    leaves: Sequence[LeafComparison], each: Sequence[LeafNumeric | None], decided: Mapping[int, str]
) -> list[LeafComparison]:
    """The leaves with what their own directions bound; those of zero gradient that the function moves along are kinks,
    for the reason in `decided`."""
    bounds = (math.nan if one is None else one.bound for one in each)
    found = [dataclasses.replace(leaf, bound=bound) for leaf, bound in zip(leaves, bounds, strict=True)]
    for i, reason in decided.items():
        if found[i].verdict is Verdict.PASS:
            found[i] = dataclasses.replace(found[i], verdict=Verdict.KINK, reason=reason)
    return found


def unproven(
    leaves: Sequence[LeafComparison],
    each: Sequence[LeafNumeric | None],
    unused: Container[int],
    numeric: NumericComparison | None,
    equations: Sequence[EquationComparison],
) -> tuple[LeafComparison, ...]:
    """The leaves, of which none passes because both gradients are wrong alike, by a user's rule that both use.

    Args:
      each: see `settled`; empty: not taken. unused: the positions of those that the function does not read.
    """
    refuted = numeric is not None and numeric.verdict is Verdict.FAIL
    users = any(one.kind is EquationKind.CUSTOM_RULE for one in equations)

    def judged(leaf: LeafComparison, own: LeafNumeric | None) -> LeafComparison:
        if refuted and own is not None and not (own.manual or own.automatic):
            return dataclasses.replace(leaf, verdict=Verdict.FAIL, reason=ALIKE)
        if users and own is None:
            return dataclasses.replace(leaf, verdict=Verdict.SKIPPED, reason=TELLS_NOTHING)
        return leaf

    pairs = zip(leaves, each or [None] * len(leaves), strict=True)
    return tuple(
        judged(leaf, own) if leaf.verdict is Verdict.PASS and i not in unused else leaf
        for i, (leaf, own) in enumerate(pairs)
    )


def follows_manual(evaluator: DirectionalEvaluator, manual: Any, automatic: Any, i: int, allowed: float) -> bool:
    """Whether the function changes as manual says, and not as automatic does, along the difference of their leaves i.

    No direction tells the two apart better, and what they agree on is not moved: a kink elsewhere does not matter.

    Args:
      allowed: the relative error that rounding explains in the leaf.
    """
    ours, theirs = (to_float64(jax.tree.leaves(side)[i]) for side in (manual, automatic))
    if not np.isfinite(ours).all():
        return False
    known = np.isfinite(theirs)
    apart = np.conj(ours - np.where(known, theirs, 0))
    apart = apart if np.any(apart) else (~known).astype(ours.dtype)
    if not np.any(apart):
        return False
    apart *= evaluator.scales[i] * math.sqrt(apart.size) / array_norm(apart)
    leaves = jax.tree.leaves(evaluator.program.inputs)
    direction = [np.zeros(np.shape(leaf)) if is_floating(leaf) else None for leaf in leaves]
    direction[i] = apart
    along = evaluator.along_direction(manual, automatic, direction)
    slopes = along.slopes
    chosen, spread = best_step(slopes.central[None], slopes.lengths, slopes.rounding)
    limit = 4 * spread + allowed * array_norm(ours) * array_norm(apart)
    off = [abs(slopes.central[chosen] - side) for side in (along.manual, along.automatic)]
    return bool(off[0] <= limit and not off[1] <= limit) and shape_of(slopes, limit)[0] is Verdict.PASS


def settled(
    leaves: Sequence[LeafComparison], each: Sequence[Any], automatic_wrong: set[int], numeric: NumericComparison
) -> tuple[tuple[LeafComparison, ...], list[str]]:
    """The leaves, those passed in which differences agree with manual and not with automatic; and a note on them.

    Args:
      each: what each leaf's own direction says (`LeafNumeric`), None where it was not asked.
      automatic_wrong: the disputed leaves in which the function follows manual, see `follows_manual`.
    """
    if numeric.verdict is Verdict.FAIL:
        return tuple(leaves), []
    denied = {i for i, one in enumerate(each) if one is not None and not one.manual}
    wrong = [i in automatic_wrong - denied for i in range(len(leaves))]
    if not any(wrong):
        return tuple(leaves), []
    passed = (
        dataclasses.replace(leaf, verdict=Verdict.PASS, reason=REASON, hypothesis=None) if odd else leaf
        for leaf, odd in zip(leaves, wrong, strict=True)
    )
    paths = ", ".join(leaf.path or "the gradient" for leaf, odd in zip(leaves, wrong, strict=True) if odd)
    return tuple(passed), [f"jax.grad is wrong at {paths}: by differences, manual is right to within their accuracy"]


def settled_value(value: LeafComparison, contract: Sequence[Check]) -> LeafComparison:
    """The function's value, passed if manual agrees with the function itself and jax.grad does not."""
    plain = next((check.verdict for check in contract if check.name is Property.SAME_VALUE), Verdict.SKIPPED)
    if value.verdict is not Verdict.FAIL or plain is not Verdict.PASS:
        return value
    reason = "the value by jax.grad is wrong: that of the function itself is the manual one"
    return dataclasses.replace(value, verdict=Verdict.PASS, reason=reason, hypothesis=None)
