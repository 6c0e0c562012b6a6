"""Where manual and automatic differ and differences of the function agree with manual alone: JAX's derivative is wrong.

That happens (JAX 0.10.2): the sign of a complex number, `x.at[i].min` with clipped indices, a reduction whose function
does not commute, `all_gather` to one value without checked types. The manual gradient is right then, as far as
differences can tell, and is not to be accused.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from .contract import SAME_VALUE
from .verdict import Check, LeafComparison, NumericComparison, Verdict

DISPUTED = (Verdict.FAIL, Verdict.NON_FINITE)
REASON = "the automatic derivative is wrong here: differences of the function agree with manual alone"


def settled(
    leaves: Sequence[LeafComparison], each: Sequence[Any], numeric: NumericComparison
) -> tuple[tuple[LeafComparison, ...], list[str]]:
    """The leaves, those passed in which differences agree with manual and not with automatic; and a note on them.

    Args:
      each: what each leaf's own direction says (`LeafNumeric`), None where it was not asked.
    """
    if numeric.verdict is not Verdict.PASS:
        return tuple(leaves), []
    wrong = [
        leaf.verdict in DISPUTED and one is not None and one.manual and not one.automatic
        for leaf, one in zip(leaves, each, strict=True)
    ]
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
    plain = next((check.verdict for check in contract if check.name == SAME_VALUE), Verdict.SKIPPED)
    if value.verdict is not Verdict.FAIL or plain is not Verdict.PASS:
        return value
    reason = "the value by jax.grad is wrong: that of the function itself is the manual one"
    return dataclasses.replace(value, verdict=Verdict.PASS, reason=reason, hypothesis=None)
