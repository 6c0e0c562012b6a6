"""The verdict on a function that JAX does not differentiate: differences and single equations have to do."""

import dataclasses
import math
from collections.abc import Sequence

from .results import LeafComparison, NumericComparison, Verdict


def without_automatic(
    leaf: LeafComparison, numeric: NumericComparison | None, intended: Sequence[str], audited: int
) -> LeafComparison:
    """A leaf of a function that JAX does not differentiate."""
    leaf = of_manual_alone(leaf)
    if leaf.verdict is not Verdict.PASS:
        return leaf
    if numeric is not None and numeric.verdict is Verdict.NOISE_LIMITED:
        return dataclasses.replace(leaf, verdict=Verdict.NOISE_LIMITED, reason=f"differences alone: {numeric.reason}")
    if numeric is None or numeric.verdict is not Verdict.PASS:
        return dataclasses.replace(leaf, verdict=Verdict.SKIPPED, reason="there is nothing to compare it with")
    if not intended:
        return dataclasses.replace(leaf, reason="compared with differences alone")
    if not audited:
        reason = "there is nothing to compare it with: differences do not know the replaced derivatives"
        return dataclasses.replace(leaf, verdict=Verdict.SKIPPED, reason=reason)
    return dataclasses.replace(leaf, reason="its equations were compared one by one alone")


def of_manual_alone(leaf: LeafComparison) -> LeafComparison:
    """A leaf without the numbers that compare it with an automatic one, which does not exist."""
    names = ("error", "ratio", "cosine")
    return dataclasses.replace(leaf, **dict.fromkeys(names, math.nan), ulps=(math.nan, math.nan), worst=None)
