"""Primitives without a rule, each with the reason: those without a derivative, and those whose derivative is not ours.

Through the first no gradient flows; a gradient through one of the second is a `MissingRule` that gives the reason.
"""

from ..backprop.registry import nondifferentiable, structured_rule, unsupported
from ..jaxprs.evaluate import source_line

# ---------------------------------------------------------------- no derivative

nondifferentiable(
    "eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to", "is_finite", "reduce_and", "reduce_or", "reduce_xor",
    reason="a comparison or test has boolean values",
)  # fmt: skip
nondifferentiable(
    "and", "or", "xor", "not", "shift_left", "shift_right_logical", "shift_right_arithmetic", "population_count", "clz",
    "mulhi", "bitcast_convert_type",
    reason="it acts on bits, not on numbers",
)  # fmt: skip
nondifferentiable("floor", "ceil", "round", reason="piecewise constant")
nondifferentiable("argmax", "argmin", reason="its values are positions")
nondifferentiable(
    "random_bits", "random_seed", "random_split", "random_fold_in", "random_wrap", "random_unwrap", "random_clone",
    "threefry2x32", "threefry4x32", "philox2x32", "philox4x32", "iota_2x32_shape", "rng_bit_generator",
    reason="random bits and keys",
)  # fmt: skip
nondifferentiable(
    "iota", "empty", "empty2", "axis_index", "create_token", "after_all",
    reason="it has no operand with a derivative",
)  # fmt: skip
nondifferentiable("stop_gradient", reason="declared a constant to the chain rule")
nondifferentiable(
    "debug_callback", "debug_print", "inspect_sharding", "dce_sink", "check", "shape_assertion",
    reason="it acts for its effect and has no output; it runs once, in the forward",
)  # fmt: skip
nondifferentiable(
    "platform_index", "dimension_size", "dim_as_value",
    reason="an integer that is known when the program is compiled",
)  # fmt: skip
nondifferentiable("zeros_like", reason="a constant, whatever the operand's value")


# ---------------------------------------------------------------- no rule of ours

unsupported(
    "pure_callback", "io_callback", "ffi_call",
    reason="a host function or foreign kernel has no derivative that can be read off: give it one with jax.custom_vjp "
    "around the call, or declare that none flows with jax.lax.stop_gradient on its operands",
)  # fmt: skip
unsupported(
    "pallas_call", "core_map", "mpmd_map", "jaxpr_call", "run_scoped", "masked_load", "masked_swap", "multiple_of",
    "program_id", "num_programs", "reciprocal", "delay", "get_global", "semaphore_read", "semaphore_signal",
    "semaphore_wait", "with_memory_space_constraint", "pin", "unpin", "create_linear",
    reason="Pallas and Mosaic: a kernel's derivative is another kernel; give it with jax.custom_vjp around the call",
)  # fmt: skip
unsupported(
    "dot_product_attention_fwd", "dot_product_attention_fwd_wrapper", "dot_product_attention_bwd",
    "dot_product_attention_bwd_wrapper", "dot_product_attention_fp8_fwd", "dot_product_attention_fp8_fwd_wrapper",
    "dot_product_attention_fp8_bwd", "dot_product_attention_fp8_bwd_wrapper", "cudnn_fusion", "scaled_matmul",
    "scaled_matmul_wrapper", "scaled_dot",
    reason="internal: a kernel of a vendor's library, which JAX's own function wraps in a custom_vjp where it has one",
)  # fmt: skip
unsupported(
    "psum_start", "psum_done", "psum_invariant_start", "unreduced_psum_start", "all_gather_start", "all_gather_done",
    "all_gather_reduced_start", "all_to_all_start", "all_to_all_done", "ppermute_start", "ppermute_done",
    "pbroadcast_start", "pbroadcast_done", "reduce_scatter_start", "reduce_scatter_done",
    "unreduced_reduce_scatter_start", "psend", "precv", "unreduced_pmax", "unreduced_pmin",
    reason="internal: one half of a collective, or a form of one that has no derivative in JAX",
)  # fmt: skip
unsupported(
    "call_hi_primitive_linearized", "new_box", "box_get", "box_set", "new_log", "log_read",
    "log_extend", "unreachable",
    reason="internal: JAX's machinery for types and calls of its own",
)  # fmt: skip
unsupported(
    "custom_jvp_call_jaxpr", "accum_grad_in_ref",
    reason="internal: JAX's automatic differentiation makes it within a backward pass of its own",
)  # fmt: skip
unsupported(
    "call_exported",
    reason="internal: an exported program is compiled code; Exported.call wraps it in the custom_vjp that was "
    "exported with it",
)  # fmt: skip
unsupported("select_and_scatter", reason="internal: the form for any scatter function, which no public function makes")


# ---------------------------------------------------------------- rewritten before a function is planned


@structured_rule("new_ref", "empty_ref", "freeze", "free_ref", "get", "swap", "addupdate", "run_state")
def rewritten_before_planning(engine, equation, active, wanted):
    """No equation of these is left in a jaxpr that is planned, but for those on references from outside."""
    raise NotImplementedError(
        f"a gradient flows through {equation.primitive.name} of a mutable reference from outside the differentiated "
        f"function, at {source_line(equation)}."
    )
