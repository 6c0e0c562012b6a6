"""The tests of JAX's that must fail with our vjp, each with its reason."""

from fnmatch import fnmatchcase
from typing import NamedTuple


class Exempt(NamedTuple):
    """Tests that fail with ours by right.

    file: of JAX's tests, without _test.py; test: a pattern for "Class::name"; reason: what the test demands.
    """

    file: str
    test: str
    reason: str


EXEMPT: tuple[Exempt, ...] = ()


def reason_for(file: str, name: str) -> str | None:
    """Why a test may fail with ours; None: it may not."""
    return next((e.reason for e in EXEMPT if e.file == file and fnmatchcase(name, f"*{e.test}")), None)
