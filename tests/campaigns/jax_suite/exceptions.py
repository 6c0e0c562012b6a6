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


_FRAMES = "counts the frames of JAX's own call stack"
EXEMPT: tuple[Exempt, ...] = (
    Exempt("api", "TracebackTest::test_grad_traceback", _FRAMES),
    Exempt("api", "TracebackTest::test_custom_vjp_traceback", _FRAMES),
    Exempt("api", "test_unimplemented_interpreter_rules", "wants JAX's words for a primitive without a JVP rule"),
)


def reason_for(file: str, name: str) -> str | None:
    """Why a test may fail with ours; None: it may not."""
    return next((e.reason for e in EXEMPT if e.file == file and fnmatchcase(name, f"*{e.test}")), None)
