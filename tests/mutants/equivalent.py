"""Mutants that are no mistakes: what they change has the same value, or no value at all. Each with its reason.

A key is `function: before -> after`, as the report prints it; a `*` at its end stands for any rest.
"""

from fnmatch import fnmatchcase
from typing import Any

EQUIVALENT = {
    "cumlogsumexp_vjp: 0 -> *": "what is shifted in at the end decays a sum of nothing, s = 0",
    "Region.stacked: manual.varying if self.check else self.axes -> manual.varying": "each device's own value stays "
    "where it is, under a spec that says it is one value; nothing moves it in between",
}


def reason(mutant: Any) -> str:
    """Why a mutant is equivalent; empty if it is not in the table."""
    return next((why for key, why in EQUIVALENT.items() if fnmatchcase(mutant.key, _literal(key))), "")


def _literal(key: str) -> str:
    """The key as a pattern in which brackets stand for themselves."""
    return "".join("[[]" if c == "[" else c for c in key)
