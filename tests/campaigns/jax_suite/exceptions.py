"""The tests of JAX's that must fail with our vjp, each with its reason."""

from fnmatch import fnmatchcase
from typing import NamedTuple


class Exempt(NamedTuple):
    """Tests that fail with ours by right.

    file: of JAX's tests, without _test.py, or a library's, with its folder; test: a pattern for "Class::name"; reason:
    what the test demands.
    """

    file: str
    test: str
    reason: str


_FRAMES = "counts the frames of JAX's own call stack"
_SAVES_COS = "demands that the residual of sin(x) is cos(x): ours is x"
_INLINED = "counts the compilations of a jit of one equation: ours walks it in place, operation by operation"
_REGION = "demands that the backward of a shard_map is one equation; ours is a shard_map in a jit"
_NAMES = "asks for names of equations by their number in JAX's gradient; ours have these names, and other numbers"
_FLOAT16 = (
    "catches the error of a float16 product that runs at once; ours is traced first, as under jit, where JAX fails too "
    "(eager=True runs it)"
)
_PULLBACK = "reads the jaxpr of JAX's pullback object"
_PRINTS_TWICE = "demands that a debug callback runs again with each recomputation; ours runs once"
EXEMPT: tuple[Exempt, ...] = (
    Exempt("api", "TracebackTest::test_grad_traceback", _FRAMES),
    Exempt("api", "TracebackTest::test_custom_vjp_traceback", _FRAMES),
    Exempt("api", "InputSavedVJPTest::test_basic_unused_vjp3", _SAVES_COS),
    Exempt("api", "InputSavedVJPTest::test_basic_opaque_vjp3", _SAVES_COS),
    Exempt("api", "APITest::test_deferred_primal_with_direct_linearize", "fills a private table of JAX's"),
    Exempt("api", "APITest::test_grad_of_jit_compilation_caching*", _INLINED),
    Exempt("api", "::test_fwd_caching", _INLINED),
    Exempt("api", "::test_remat_no_redundant_flops*", _INLINED),
    Exempt(
        "api",
        "APITest::test_float0_reshape",
        "demands that an integer argument stays a NumPy array within the function; ours is a traced array",
    ),
    Exempt(
        "api",
        "::test_excess_precision_hell",
        "demands that a user's backward returns a gradient in another dtype than its operand's",
    ),
    Exempt("api", "::test_name_stack_annotation", "demands that what is computed again is one jit"),
    Exempt("api", "::test_remat_partial_cse_prevention", "demands a barrier where nothing is computed again"),
    Exempt("api", "::test_remat_partial_cse_prevention_pytree", "demands a barrier where nothing is computed again"),
    Exempt("api", ".RematTest::test_remat_residual_logging", "demands JAX's log of what is saved, fb.residuals here"),
    Exempt("api", "::test_remat_scan", "demands that the backward is one equation"),
    Exempt("api", "::test_remat_scan_new", "demands that the backward is one equation"),
    Exempt(
        "api",
        "Remat3Test::test_no_cse_widget_with_prevent_cse_false*",
        "the newer checkpoint of JAX 0.10.2 keeps no record of prevent_cse",
    ),
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
    Exempt("name_stack", "::test_grad_should_add_jvp_and_transpose_*", _NAMES),
    Exempt("name_stack", "::test_*grad_of_cond_transforms_name_stack", _NAMES),
    Exempt(
        "hijax",
        "HijaxTest::test_grad_remat_hitype",
        "the vjp_fwd of its class lacks an argument that JAX hands over: the test never reaches it, and ours does",
    ),
    Exempt(
        "hijax",
        "::test_hitypes_as_grad_args",
        "its type defines no vspace_zero, which the walk over a JVP needs, and JAX does not",
    ),
    Exempt(
        "hijax",
        "LogTest::test_custom_vjp_plumbing_scan*",
        "a mutable hijax type within a scan: such types are gone from later versions of JAX",
    ),
    Exempt("lax_autodiff", "::testPowSecondDerivative", "demands that the slope of 0.0 ** 0.0 is NaN; ours is 0"),
    Exempt("lax_autodiff", "::test_scatter_apply_vjp", "demands that x.at[i].apply is refused; ours differentiates it"),
    Exempt("lax_control_flow", "::testWhileGradError*", "demands that the gradient of a while loop is refused"),
    Exempt("lax_control_flow", "::testSwitchResidualsMerge", "counts what JAX's switch returns beside its outputs"),
    Exempt(
        "custom_linear_solve",
        "::test_custom_linear_solve_without_transpose_solve",
        "demands that a solve without a transpose is refused; ours differentiates it",
    ),
    Exempt(
        "checkify",
        "::test_goodfellow_custom_jvp",
        "an internal check of JAX's fails on what checkify makes of a custom_jvp function, once that is traced",
    ),
    Exempt(
        "lax_scipy_special_functions",
        "::testScipySpecialFun_log_ndtr_*_float32",
        "an internal check of JAX's fails on a custom_jvp function with a static argument, once it is traced or jitted",
    ),
    Exempt(
        "hijax",
        "::test_hijax_primitive_under_remat*",
        "counts the calls of a class's jvp; the gradient is by the class's own vjp",
    ),
    Exempt("shard_map", "::test_fanin_psum_transposes_to_fanout", _REGION),
    Exempt("shard_map", "::test_fanout_specs_transpose_to_psum", _REGION),
    Exempt("shard_map", "::test_psum_with_implicit_fanout_self_transposes", _REGION),
    Exempt("shard_map", "::test_transpose_identity", _REGION),
    Exempt(
        "shard_map", "::test_res_forwarding_optimization_complex*", "counts what JAX saves; ours saves one array less"
    ),
    Exempt("mutable_array", "::test_remat_basic_closed_over_nested", _PRINTS_TWICE),
    Exempt("debugging_primitives", "::test_remat_of_debug_print*", _PRINTS_TWICE),
    Exempt("core", "CoreTest::test_tracer_reprs", "prints JAX's own tracers"),
    Exempt("core", "CoreTest::test_verbose_tracer_reprs", "prints JAX's own tracers"),
    Exempt("metadata", "MetadataTest::test_grad_jit_metadata", _NAMES),
    Exempt("pmap", "::test_remat_of_pmap_policy*", _PULLBACK),
    Exempt("xla_metadata", "::test_value_grad_tagging2", "names the operations of JAX's derivative of tanh"),
    Exempt(
        "key_reuse",
        "::test_remat",
        "JAX's check for keys that are used twice knows of recomputation only within JAX's own checkpoint",
    ),
    Exempt(
        "dtypes",
        "ExtendedDTypeTest::test_custom_tangent_dtype",
        "demands that a user's backward returns a gradient in another dtype than its operand's",
    ),
    Exempt("nn", "::testDotProductAttention1[3579]", _FLOAT16),
    Exempt("nn", "::testDotProductAttention2[13]", _FLOAT16),
    Exempt("mutable_array", "::test_slicing_with_vjp3", "demands that no zeros are made where a slice is accumulated"),
    Exempt("pjit", "test_unreduced_einsum_add_basic", "takes equations of the gradient by their number in JAX's"),
    Exempt("pjit", "test_dot_general_out_sharding0", "looks for a nested jit in the backward: ours walks it in place"),
)


def reason_for(file: str, name: str) -> str | None:
    """Why a test may fail with ours; None: it may not."""
    return next((e.reason for e in EXEMPT if e.file == file and fnmatchcase(name, f"*{e.test}")), None)
