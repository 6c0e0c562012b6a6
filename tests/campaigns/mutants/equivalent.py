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
INFINITE = "it differs at -inf or inf alone, where the function is not finite, and where the rule's own test looks"
IGNORED = "the driver takes no cotangent for an operand that needs none"
SAME_PATH = "the other branch, which is general, gives the same numbers"
SINGULAR = "it differs where a value is 0 and the function has no derivative: there it gives 0, and not NaN"
PLACEMENT = "it says where a value lies, and changes no number"
CHECKPOINTS = "other checkpoints are kept, each with its step: it costs time, and changes no number"
VANISHES = "what vanishes counts for nothing, tied or not; what is tied and does not vanish has no derivative"
EQUIVALENT = [
    Row("cumlogsumexp_vjp", "after = _shift", "0 -> *", "what is shifted in at the end decays a sum of nothing, s = 0"),
    Row("cumprod_vjp", "total = _linear", "1 -> *", "what is shifted in at the end multiplies a sum of nothing, s = 0"),
    Row("cumlogsumexp_vjp", "decay = lax.select(lax.eq(after", "0 -> *", INFINITE),
    Row("cumlogsumexp_vjp", "decay = lax.select(lax.eq(after", "lax.eq(y, infinite) -> *", INFINITE),
    Row("cumlogsumexp_vjp", "decay = lax.select(lax.eq(after", "y -> x", INFINITE),
    Row("cumlogsumexp_vjp", "decay = lax.select(lax.eq(y", "* -> decay", INFINITE),
    Row("cumlogsumexp_vjp", "decay = lax.select(lax.eq(y", "lax.neg(infinite) -> infinite", INFINITE),
    Row("cumlogsumexp_vjp", "first = lax.eq(place", "1 -> 0", INFINITE),
    Row("cumlogsumexp_vjp", "first = lax.eq(place", "x.shape[axis] - 1 -> *", INFINITE),
    Row("cumlogsumexp_vjp", "weight = lax.select(lax.eq(x", "* -> weight", INFINITE),
    Row("cumlogsumexp_vjp", "weight = lax.select(lax.eq(x", "lax.neg(infinite) -> infinite", INFINITE),
    Row("gamma_density", "(x == 0) & (a == 1)", "1 -> *", EDGE),
    Row("gamma_density", "(x == 0) & (a == 1)", "0 -> *", EDGE),
    Row("gamma_second_slope", "x > 0", "x > 0 -> (x) >= (0)", EDGE),
    Row("_share_among_extremes", "lax.max(count", "1 -> *", NOT_FINITE),
    Row("_share_among_extremes", "lax.max(count", "lax.max(count, scalar(1, count)) -> *", NOT_FINITE),
    Row("_share_among_extremes", "lax.max(count", "scalar(1, count) -> *", NOT_FINITE),
    Row("beta_slope", "inside =", "* -> (*) >= (0)", EDGE),
    Row("_per_value", "tied(gaps, scale), vanishing(x, x_scale)", "* -> tied(gaps, scale)", SINGULAR),
    Row("jit_vjp", "INLINED_EQUATIONS", "len(closed.jaxpr.eqns) *", SAME_PATH),
    Row("jit_vjp", "INLINED_EQUATIONS", "engine.inline or *", SAME_PATH),
    Row("jit_vjp", "INLINED_EQUATIONS", "equation.primitive.name != *", SAME_PATH),
    Row("_cond", "choosing.save_nothing", "False -> True", "a barrier for the compiler changes no number"),
    Row("_thin", "order =", "1 + full.astype(jnp.int32) -> full*", CHECKPOINTS),
    Row("_thin", "count =", "slots + 1 -> (slots) - (1)", CHECKPOINTS),
    Row("lu_vjp", "permuted =", "-1 -> 1", SAME_PATH),
    Row("_schedule", "2**30", "2 -> *", CHECKPOINTS),
    Row("_schedule", "range(slots + 1)", "slots + 1 -> (slots) - (1)", CHECKPOINTS),
    Row("explicit_sharding", "return", "* -> sharding", PLACEMENT),
    Row("_next_checkpoint", "repeats =", "row < distance + 1 -> *", CHECKPOINTS),
    Row("_push", "kept.steps, step", "0 -> -1", "the steps have one axis"),
    Row("gamma_second_slope", "x > 0", "0 -> -1", EDGE),
    Row("log_sample_slope", "tiny =", "1 -> 2", SAME_PATH),
    Row("zeta_slope", "terms = 12", "12 -> 13", "the sum has converged before"),
    Row("tied", "return", "*lax.lt(*", "it differs at the zero matrix alone, where nothing but a constant is smooth"),
    Row("_settled", "return", "lax.bitwise_and(quiet, tied(gaps, scale)) -> *quiet*", VANISHES),
    Row("_per_value", "tied(gaps, scale), vanishing", "* -> lax.bitwise_or(*", VANISHES),
    Row("_per_value", "tied(gaps, scale), vanishing", "lax.bitwise_and(* -> vanishing(x, x_scale)", VANISHES),
    Row("_share", "imag = _share", "lax.imag(x) -> *", "it differs where real parts tie: JUMP, whatever the rule says"),
    Row("_rounding", "16 *", "16*", "it is a bound on rounding as well"),
    Row("_completed", "noise =", "*", "it differs where Q₂ jumps, and the verdict is JUMP whatever the rule says"),
    Row("_checkpointed", "kept.count < slots", "*kept.count < slots -> (kept.count) <= (slots)", CHECKPOINTS),
    Row("_checkpointed", "stride = jnp.int32(1", "1 -> 2", CHECKPOINTS),
    Row("_next_checkpoint", "free > 0", "0 -> 1", CHECKPOINTS),
    Row("gamma_curvature", "sign = ", "1 -> 2", "t = x·exp(2s) is a substitution as good as t = x·exp(s)"),
    Row("igamma_grad_a_vjp_x", "lax.eq(density", "0 -> *", EDGE),
    Row("eigh_pullback", "scale =", "mx.column(values) -> mx.row(values)", "the same numbers have the same largest"),
    Row("remat_vjp", "policy is None", "* -> choosing.save_nothing", "it costs time or memory, and changes no number"),
    Row("Body.held", "return", "jaxprs.is_var(v) and v in atoms -> (jaxprs.is_var(v)) or *",
        "more is held than is read: it costs memory, and changes no number"),
    Row("sign_vjp", "size = lax.convert_element_type", "*", "it guards the rule's own derivative alone"),
    Row("explicit_sharding", "return", "mesh is not None and *", PLACEMENT),
    Row("_put_back", "ct is None or place is None", "* -> (ct is None) and *", PLACEMENT),
    Row("_put_back", "ct is None or place is None", "*memory_space == *", PLACEMENT),
    Row("sort_vjp", "equation.invars[0].aval", "0 -> *", "all operands of a sort have one shape"),
    Row("sort_vjp", "if on and dy is not None", "*", IGNORED),
    Row("concatenate_vjp", "if on else None", "*", IGNORED),
    Row("stack_vjp", "if on else None", "*", IGNORED),
    Row("write_along", "return", "lax.scatter_add(* -> lax.scatter(*", "the indices are distinct"),
    Row("pow_vjp_x", "both_zero =", "lax.bitwise_and(* -> lax.eq(y*", "the slope is multiplied by y = 0"),
    Row("_product_of_others", "u = lax.select", "1 -> 2", "an update that is left out has a run of its own, and no dy"),
    Row("select_n_vjp", "if on else None", "*", IGNORED),
    Row("clamp_vjp_x", "", "x -> z", "z is x wherever the mask holds, and a bound elsewhere"),
    Row("clamp_vjp_low", "", "low -> z", "z is low wherever the mask holds, and x or high elsewhere"),
    Row("clamp_vjp_high", "", "high -> z", "z is high wherever the mask holds"),
    Row("accumulator", "< 4", "4 -> 5", "float32 is what float32 accumulates in anyway"),
    Row("_product_of_others", "num_keys=1", "1 -> 2", "the order within a run changes no product"),
    Row("_to_extremes", "set(window_dilation) - {1}", "set(window_dilation) - {1} -> set(window_dilation)", SAME_PATH),
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
