"""Primitives without a derivative, each with the reason why no gradient flows through it."""

from ..backprop.registry import nondifferentiable

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
