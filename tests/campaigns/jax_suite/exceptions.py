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
_SAVES_COS = "demands that the residual of sin(x) is cos(x): ours is x"
_INLINED = "counts the compilations of a jit of one equation: ours walks it in place and compiles nothing"
EXEMPT: tuple[Exempt, ...] = (
    Exempt("api", "TracebackTest::test_grad_traceback", _FRAMES),
    Exempt("api", "TracebackTest::test_custom_vjp_traceback", _FRAMES),
    Exempt("api", "InputSavedVJPTest::test_basic_unused_vjp3", _SAVES_COS),
    Exempt("api", "InputSavedVJPTest::test_basic_opaque_vjp3", _SAVES_COS),
    Exempt("api", "APITest::test_deferred_primal_with_direct_linearize", "fills a private table of JAX's"),
    Exempt("api", "APITest::test_grad_of_jit_compilation_caching*", _INLINED),
    Exempt("api", "test_unimplemented_interpreter_rules", "wants JAX's words for a primitive without a JVP rule"),
    Exempt(
        "custom_api",
        "::test_bwd_rule_shape_mismatch_disable",
        "a private switch of JAX lets a user's backward return a gradient of another shape than its operand",
    ),
    Exempt(
        "custom_api",
        "::test_optimize_remat_gh21303",
        "the forward returns another value than the function: the test demands the latter, ours is the former",
    ),
    Exempt(
        "custom_api",
        "::test_symbolic_zero_custom_vjp",
        "demands that a custom_vjp function's sum of Python floats stays a float; ours is an array of the same type",
    ),
    Exempt("custom_api", "CustomVmapTest::test_partial_eval_raises", "demands that a custom_vmap function is refused"),
    Exempt("pjit", "test_dot_general_out_sharding0", "looks for a nested jit in the backward: ours walks it in place"),
)


def reason_for(file: str, name: str) -> str | None:
    """Why a test may fail with ours; None: it may not."""
    return next((e.reason for e in EXEMPT if e.file == file and fnmatchcase(name, f"*{e.test}")), None)
