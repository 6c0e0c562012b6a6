"""Mutants that are no mistakes, or none that a gradient shows: each with its reason.

A row names the function, a part of the source line, and the change as the report prints it; `*` stands for anything.
"""

from fnmatch import fnmatchcase
from typing import Any, NamedTuple


class Row(NamedTuple):
    function: str
    line: str  # a part of it
    change: str
    reason: str


EDGE = "it differs at the edge of the domain alone, where the verdict is DOMAIN-EDGE whatever the rule says"
NOT_FINITE = "it differs beside a NaN alone, where the function is not finite"
IGNORED = "the driver takes no cotangent for an operand that needs none"
SAME_PATH = "the other branch, which is general, gives the same numbers"
EQUIVALENT = [
    Row("cumlogsumexp_vjp", "after = _shift", "0 -> *", "what is shifted in at the end decays a sum of nothing, s = 0"),
    Row("cumprod_vjp", "total = _linear", "1 -> *", "what is shifted in at the end multiplies a sum of nothing, s = 0"),
    Row("gamma_density", "(x == 0) & (a == 1)", "1 -> *", EDGE),
    Row("gamma_density", "(x == 0) & (a == 1)", "0 -> *", EDGE),
    Row("gamma_second_slope", "safe =", "x > 0 -> (x) >= (0)", EDGE),
    Row("_share_among_extremes", "lax.max(count", "1 -> *", NOT_FINITE),
    Row("_share_among_extremes", "lax.max(count", "lax.max(count, scalar(1, count)) -> *", NOT_FINITE),
    Row("_share_among_extremes", "lax.max(count", "scalar(1, count) -> *", NOT_FINITE),
    Row("sign_vjp", "size = lax.convert_element_type", "*", "it guards the rule's own derivative alone"),
    Row("explicit_sharding", "return", "mesh is not None and *", "it says where a value lies, and changes no number"),
    Row("sort_vjp", "equation.invars[0].aval", "0 -> *", "all operands of a sort have one shape"),
    Row("sort_vjp", "if on and dy is not None", "*", IGNORED),
    Row("concatenate_vjp", "if on else None", "*", IGNORED),
    Row("stack_vjp", "if on else None", "*", IGNORED),
    Row("pad_vjp_x", "set(strides) <= {1}", "set(strides) <= {1} -> (set(strides)) < ({1})", SAME_PATH),
    Row("conv_general_dilated_vjp_w", "if set(ones) == {1}", "*", SAME_PATH),
    Row(
        "Region.stacked", "varying if self.check", "manual.varying if self.check else self.axes -> manual.varying",
        "each device keeps its own value, under a spec that says it is one value; nothing moves it in between",
    ),
]  # fmt: skip


def reason(mutant: Any) -> str:
    """Why a mutant is equivalent; empty if it is not in the table."""
    return next((row.reason for row in EQUIVALENT if _names(row, mutant)), "")


def _names(row: Row, mutant: Any) -> bool:
    pattern = "".join("[[]" if c == "[" else c for c in f"{row.function}: {row.change}")  # brackets are no classes
    return row.function == mutant.function and row.line in mutant.line and fnmatchcase(mutant.key, pattern)
