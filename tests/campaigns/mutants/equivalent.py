"""Mutants that are no mistakes, or none that a gradient shows: each with its reason.

A row names the function and a pattern of the place and kind of the mistake, as the report prints them.
"""

from fnmatch import fnmatchcase
from typing import Any, NamedTuple


class Row(NamedTuple):
    function: str  # with its module where another one has a function of this name
    mistake: str
    reason: str


EDGE = "it differs at the edge of the domain alone, where the verdict is DOMAIN-EDGE whatever the rule says"
NOT_FINITE = "it differs beside a NaN alone, where the function is not finite"
INFINITE = "it differs at -inf or inf alone, where the function is not finite, and where the rule's own test looks"
IGNORED = "the engine takes no cotangent for an operand that needs none"
SAME_PATH = "the other branch, which is general, gives the same numbers"
NOUGHT = "x is 0 where its size is, and what is divided is 0 in any case"
SINGULAR = "it differs where a value is 0 and the function has no derivative: there it gives 0, and not NaN"
SQUARE = "its matrices are square"
JUMPING = "it differs where Q₂ jumps, and the verdict is JUMP whatever the rule says"
PLACEMENT = "it says where a value lies, and changes no number"
CHECKPOINTS = "other checkpoints are kept, each with its step: it costs time, and changes no number"
VANISHES = "what vanishes counts for nothing, tied or not; what is tied and does not vanish has no derivative"
IN_ITS_OWN_DERIVATIVE = "it guards the rule's own derivative alone"
BOUND = "it is a bound on rounding as well"
SUBSTITUTION = "t = x·exp(2s) is a substitution as good as t = x·exp(s)"
COST = "it costs time or memory, and changes no number"
REPORT = "it is told in a report, and changes no number"
WARNING = "it is told in a warning, which tests/rules/loops/test_decisions.py expects, and changes no number"
ONE_BATCH = "JAX does not batch a loop twice over examples that are divided among devices"
FLOAT64 = "it is for float64, as in tests/rules/pointwise/test_special.py, and the programs are float32"
NOTHING = "what is shifted in at the end decays or multiplies a sum of nothing, s = 0"
TWO_AXES = "its arrays have two axes, and 1 is the last as -1 is; or one, which is the first and the last"
NOT_ASKED_FOR = "what is computed and not asked for is left out of the results"
NO_SIZE = "it differs where an axis is empty alone, and there is nothing to divide"
UNSELECTED = "it is a number that is not selected, and has a finite derivative all the same"
AS_EXACT_AS_JAX = "between 10 and 30 the slope is then as exact as JAX's; `accuracy ulp` asks for more"
PROMISE = "it is a promise of which a CPU makes no use"
BUDGET = "it is for a budget: it costs time or memory, and changes no number"
EXPLICIT = "a test of the rule has it, on a mesh with explicit axes, which would stand around the whole comparison"
EQUIVALENT = [
    Row("_over_squares", "3.1.1.1.0 function confused", "what overflows by it has a slope that underflows"),
    Row("digamma_vjp", "2.1 comparison off by one", "at the bound itself both are right"),
    Row("clamp_vjp_x", "argument 2 *", "z is x wherever the mask holds, and a bound elsewhere"),
    Row("clamp_vjp_low", "argument 1 *", "z is low wherever the mask holds, and x or high elsewhere"),
    Row("abs_vjp", "0.2.0 mask forgotten #2", NOUGHT),
    Row("abs_vjp", "0.2.0.2.1.1.1 constant changed", NOUGHT),
    Row("clamp_vjp_high", "argument 3 *", "z is high wherever the mask holds"),
    Row("select_n_vjp", "2.0.1.0.0 *", IGNORED),
    Row("select_n_vjp", "2.0.1.0.1.1.0.1* *", IGNORED),
    Row("jit_vjp", "2.0* *", SAME_PATH),
    Row("_cond", "0.1 case forgotten #2", COST),
    Row("_cond", "8.1.1.1.0.0.1 constant changed", "all branches take operands of the same types"),
    Row("_cond", "14.0.2.0 flag turned", IGNORED),
    Row("_chooser", "2.0 condition confused", COST),
    Row("recompute", "8.2.0 *", REPORT),
    Row("remat_vjp", "2.1 case forgotten", COST),
    Row("remat_vjp", "1.1.1.1 flag turned", COST),
    Row("accumulator", "0.0.0.1 constant changed", "float32 is what float32 accumulates in anyway"),
    Row("_is_pointwise", "1.0.0.1.0 constant changed*", SAME_PATH),
    Row("_cumlogsumexp_pullback", "1.1.1 *", NOTHING),
    Row("_cumlogsumexp_pullback", "3.1.1.0.1 comparison off by one", INFINITE),
    Row("_cumlogsumexp_pullback", "3.1.1.1 *", INFINITE),
    Row("_cumlogsumexp_pullback", "3.[23].1 mask forgotten #2", INFINITE),
    Row("_cumlogsumexp_pullback", "3.[23].1.0.1 sign turned", INFINITE),
    Row("_product", "0.* *", "the product of no elements has no gradient"),
    Row("Line.first", "1.0.1.1 operands swapped", INFINITE),
    Row("Line.first", "1.0.1.1 function confused", INFINITE),
    Row("Line.first", "1.0.1.1 term dropped", INFINITE),
    Row("Line.first", "1.0.1.1.1 constant changed #2", INFINITE),
    Row("lu_vjp", "10.0.1 sign turned", SAME_PATH),
    Row("on_diagonal", "0.0.0.0.0.1.0 constant changed", SQUARE),
    Row("_of_span", "2.1.1 *", JUMPING),
    Row("_of_span", "2.1.0.0.1 adjoint forgotten", JUMPING),
    Row("_of_span", "3.0 mask forgotten", JUMPING),
    Row("_of_span", "2.1.0.0 operands swapped", "the sign does not matter to the largest absolute value"),
    Row("_rounding", "0.0 *", BOUND),
    Row("_rounding", "0.0.0 *", BOUND),
    Row("_rounding", "0.0.0.0 *", BOUND),
    Row("_rounding", "0.0.0.1.1.0 constant changed #2", BOUND),
    Row("igamma_grad_a_vjp_x", "2.0 mask forgotten #2", EDGE),
    Row("igamma_grad_a_vjp_x", "2.0.0.1 *", EDGE),
    Row("igamma_grad_a_vjp_x", "2.0.1 *", EDGE),
    Row("gamma_second_slope", "?.?.0 comparison off by one", EDGE),
    Row("gamma_second_slope", "?.?.0.1 constant changed #2", EDGE),
    Row("gamma_second_slope", "2.0.2.* constant changed #2", EDGE),
    Row("gamma_curvature", "1.1.1.0.* constant changed", SUBSTITUTION),
    Row("log_sample_slope", "0.1.1.1 constant changed", SAME_PATH),
    Row("beta_slope", "1.1.? comparison off by one", EDGE),
    Row("write_along", "5.0 *", "the indices are distinct"),
    Row("_product_of_others", "1.1.1 constant changed", "an update that is left out has its own run, and no dy"),
    Row("_product_of_others", "4.1.1.0 constant changed", "the order within a run changes no product"),
    Row("_share_among_extremes", "6.1.1* *", NOT_FINITE),
    Row("pad_vjp_x", "3.0.0 comparison off by one", SAME_PATH),
    Row("concatenate_vjp", "1.3.0.0* *", IGNORED),
    Row("stack_vjp", "0.0.0 *", IGNORED),
    Row("stacked", "1.1 case forgotten", "each device keeps its own value; nothing moves it in between"),
    Row("_split_body", "0.6.1.0.0 condition confused", "more is held than is read: it costs memory alone"),
    Row("_put_back", "0.0* *", PLACEMENT),
    Row("sort_vjp", "1.1.1.0.1 *", "all operands of a sort have one shape"),
    Row("sort_vjp", "3.1.0.0* *", IGNORED),
    Row("zeta_slope", "0.1 constant changed", "the sum has converged before"),
    Row("tied", "0.0 comparison off by one", "it differs at the zero matrix alone, where a constant alone is smooth"),
    Row("settled", "1.0.0 condition dropped", VANISHES),
    Row("settled", "1.0.0 function confused", VANISHES),
    Row("eigh_pullback", "3.1.2.0 function confused", "the same numbers have the same largest"),
    Row("_per_value", "2.0.2 condition dropped", SINGULAR),
    Row("_per_value", "2.0.2 condition dropped #2", VANISHES),
    Row("_per_value", "2.0.2 function confused", VANISHES),
    Row("Checkpoints.push", "2.1.3 constant changed #2", "the steps have one axis"),
    Row("Checkpoints.thinned", "1.1.0.1 term dropped #2", CHECKPOINTS),
    Row("Checkpoints.thinned", "3.1.1.0.0 function confused", CHECKPOINTS),
    Row("Checkpoints.thinned", "4.0.1* *", CHECKPOINTS),
    Row("while_loop._forward", "6.1.0.0 comparison off by one", CHECKPOINTS),
    Row("while_loop._forward", "9.1.0.*1 constant changed", CHECKPOINTS),
    Row("schedule", "0.1.0.0.1.0 *", CHECKPOINTS),
    Row("schedule", "0.1.1.1.0 function confused", CHECKPOINTS),
    Row("schedule", "0.1.1.1.0.1 constant changed", CHECKPOINTS),
    Row("next_checkpoint", "[0-4].* *", CHECKPOINTS),
    Row("next_checkpoint", "5.0.0.1 constant changed", CHECKPOINTS),
    Row("_to_extremes", "1.0 term dropped", SAME_PATH),
    *(Row(f"decisions.{name}", "*", WARNING) for name in ("decided_carries", "decided_carries_of_scan")),
    *(Row(f"decisions.{name}", "*", WARNING) for name in ("_is_compared", "_reached")),
    Row("_gathered", "2.0.1.1.0.0 factor dropped", ONE_BATCH),
    Row("_far", "0.0 case forgotten #2", FLOAT64),
    Row("_far", "0.0 case forgotten", AS_EXACT_AS_JAX),
    Row("_far", "0.0.0 comparison off by one", AS_EXACT_AS_JAX),
    Row("gamma_curvature", "1.1.1.0 operands swapped", "the integral over the other tail is the same but for its sign"),
    Row("_sech_squared", "2.0 mask forgotten", "as exact as JAX, then; test_accuracy_in_the_tails asks for more"),
    Row("Checkpoints.thinned", "1.1.0.1 term dropped", CHECKPOINTS),
    Row("_pointwise_product_x", "3.1.0.1.0.0 comparison off by one", "two axes of an array are never the same"),
    Row("_below_blocks", "1.1 constant changed", "what is not under the diagonal is left out"),
    Row("_scatter_to_winners", "2.2.1 condition dropped", NOT_FINITE),
    Row("conv_patches._pad", "1.2.0.0.1.0.0.0.0.0 term dropped", "longer padding is read by no window"),
    Row("asinh_vjp", "2.0.1.1.1 constant changed", UNSELECTED),
    Row("asinh_vjp", "2.0.1.1.1 constant changed #2", IN_ITS_OWN_DERIVATIVE),
    Row("_combining", "4.1.0.0 flag turned", IGNORED),
    Row("_large_exponent", "4.1.1.1.0.2 constant changed", UNSELECTED),
    Row("gamma_second_slope", "0.1.1.1 constant changed*", EDGE),
    Row("igamma_grad_a", "1.0.2.1.1 constant changed*", EDGE),
    Row("_set_pullback", "0.0 condition confused", SAME_PATH),
    Row("_set_pullback", "*.0.2 case forgotten", IGNORED),
    Row("_set_pullback", "0.1.1 case forgotten", IGNORED),
    Row("_set_pullback", "3.1 case forgotten", IGNORED),
    Row("while_loop._forward", "4.1.0 condition dropped #2", CHECKPOINTS),
    Row("while_loop._forward", "4.1.0 function confused", CHECKPOINTS),
    Row("while_loop._forward", "4.1.0.0 comparison *", CHECKPOINTS),
    Row("decisions.warn_of_decisions", "*", WARNING),
    Row("scan._describe", "*", REPORT),
    Row("accumulator", "0.0.0 comparison off by one", "float32 is what float32 accumulates in anyway"),
    Row("dot._cotangent", "5.1* *", COST),
    Row("_promised_of_writes", "2.0.3.1.1 *", PROMISE),
    Row("conv_general_dilated_vjp_w", "0.0.0 *", NO_SIZE),
    Row("_pointwise_product_w", "3.0 comparison off by one", "two axes of an array are never the same"),
    Row("_transposed_rows", "10.1.1.1 *", "padding has no row, so that its column is not read"),
    Row("step_axes", "0.0.0.0.1 *", "a condition has one result"),
    Row("qr_adjoint", "0.1.0.1.0 constant changed #2", "Q has as many columns as it has rows, or as R has columns"),
    Row("_typed_as", "1.1.0.0 comparison off by one", "the loop runs twice, to the same numbers"),
    Row("norm_forward", "1.1.1.1 sign turned", TWO_AXES),
    Row("norm_forward", "3.1.0.0.1 sign turned", TWO_AXES),
    Row("norm_backward", "6.1.1.1.1.1 sign turned", TWO_AXES),
    Row("norm_backward", "7.1.1.1.1 sign turned", TWO_AXES),
    Row("lstm.forward", "1.1.2.0 sign turned", TWO_AXES),
    Row("lstm.forward", "5.0.1.0.1.0 sign turned", TWO_AXES),
    Row("lstm.backward", "1.1.2.0 sign turned", TWO_AXES),
    Row("lstm.backward", "7.1.1.0 sign turned", TWO_AXES),
    Row("gru.forward", "[12].1.2.0 sign turned", TWO_AXES),
    Row("gru.forward", "6.0.1.1.0 sign turned", TWO_AXES),
    Row("gru.backward", "0.1.2.0 sign turned", TWO_AXES),
    Row("gru.backward", "6.1.0.1.0 sign turned", TWO_AXES),
    Row("attention_forward", "4.2.1.1.0.2 case forgotten #2", SAME_PATH),
    Row("attention_backward", "11.2.1.1.0.2 case forgotten #2", SAME_PATH),
    Row("attention_backward", "10.11.0.3 case forgotten #2", NOT_ASKED_FOR),
    Row("_cotangent_of_mean", "0.0.1.1 *", NO_SIZE),
    Row("rnn.backward", "2.0.2 sign turned", "a cotangent of 0 times a factor is 0"),
    Row("rnn.backward", "2.0.2 1 % too large", "a cotangent of 0 times a factor is 0"),
    Row("recurrence._backward", "0.3.2.1.1 case forgotten #2", "what is the same twice is then kept twice"),
    Row("recurrence._backward", "0.4.7.1 case forgotten", IGNORED),
    Row("recurrence._backward", "0.8.0.0 case forgotten #2", IGNORED),
    Row("_set_pullback", "3.1.0.1 constant changed #2", IGNORED),
    Row("_hessenberg_adjoint", "10.1.1.0.1.0 constant changed", "the multiplier Y replaces what stands there"),
    Row("_put_back", "1.0.1 *", PLACEMENT),
    Row("Entries.arrange", "7.1.0 case forgotten #2", "it differs in a sum over a shared batch, which JAX gets wrong"),
    Row("View.write", "3.0.0 condition confused", "a scatter of nothing leaves the zeros as they are"),
    Row("linear_solve_activity", "1.0.0 comparison off by one", "the rule takes no cotangent of what is auxiliary"),
    Row("scan_activity", "3.0.0.1.1.2.0 flag turned", "a result that depends on nothing active passes nothing on"),
    Row("stacked", "1.1.2 term dropped", "it is for a vmap of the gradient, as in test_vmap_of_grad_along_a_mesh_axis"),
    Row("_jitted", "0.1.1.1 constant changed #2", BUDGET),
    Row("split_step", "7.1 case forgotten", BUDGET),
    Row("shard_map._split_body", "0.5.0.0.1.2 condition confused", "what is added is no variable, and not looked for"),
    Row("qr_vjp", "1.0.0.1.1.1 constant changed #2", "there is one permutation"),
    Row("Masked.no_steps", "0.0.0.0.1 constant changed #2", "n and the number of steps taken are of one type"),
    Row("_gathered", "2.0.1.1.0.0 factor dropped #2", EXPLICIT),
    Row("conv_general_dilated_vjp_w", "5.0 case forgotten #2", EXPLICIT),
    Row("sign_activity", "0.0.0.0.0.1 constant changed #2", "a sign has one operand"),
    Row("dot._cotangent", "7.1 case forgotten", "float32 is what float32 accumulates in anyway"),
    Row("Entries._starts", "1.1.3.0 term dropped #2", "-1 is the last axis as well"),
    Row("_typed_as", "3.2.0.0.0 case forgotten", "the loop itself gives the same numbers"),
    Row("clamp_vjp_high", "0.0.0.1 comparison off by one", "it differs where low is high alone, at a kink"),
    Row("log_sample_slope", "0.1.1 function confused", BOUND),
    Row("log_sample_slope", "1.1.0.1 constant changed", UNSELECTED),
    Row("products_win", "1.1.1.0 factor dropped", SAME_PATH),
    Row("products_win", "0.0.1 comparison off by one", SAME_PATH),
    Row("filter_cotangent", "0.0.0.[12].1.1 constant changed", SAME_PATH),
    Row("dot._cotangent", "6.0.1 condition turned", SAME_PATH),
    Row("_promised_of_writes", "2.0.3 condition confused", PROMISE),
    Row("settled", "0.1.1.1.0 adjoint forgotten", "unless both of the two entries vanish there is no derivative"),
    Row("ScanStep.zero_sums", "0.0.0.1.0.0.1 constant changed #2", "all terms of a sum are of one type"),
    Row("scan_vjp", "1.0.0 mask forgotten", WARNING),
    Row("reduce_window_vjp", "2.1.0.0.1 constant changed #2", "all results have one shape"),
    Row("_vectorised", "1.1.1.0.0.1 constant changed #2", "all operands have one shape"),
    Row("_apply_pullback", "0.1.1.1 flag turned", "the second operand of the function is not read"),
    Row("sort_vjp", "4.0.2.0.0 condition confused", IGNORED),
    Row("spsolve_vjp", "2.5.1 case forgotten", IGNORED),
    Row("_largest", "1.0.1.1.0 sign turned", NO_SIZE),
    Row("hstack", "0.0.0.1.0.0.1 constant changed #2", "all blocks have one rank"),
    Row("tail_integral", "2.1.0.0.0.0 constant changed", "S is longer by 1 % at most, and the integral the same"),
    Row("varying_steps._varied", "0.0.1.0.0.0.1 constant changed #2", "pvary has one operand"),
    Row("copied", "2.1 condition dropped", EXPLICIT),
    Row("ties.divided", "1.0.0.0 condition dropped", "it gives inf for NaN where there is no derivative: test_ties.py"),
    Row("_schur_adjoint", "7.1.1.2 adjoint forgotten", "it gives a number for NaN, at ties: test_hessenberg_schur.py"),
    Row("while_vjp", "6.0 case forgotten", "the loop itself gives the same numbers"),
    Row("plan_step", "1.1.0.0 condition confused", COST),
    Row("qr_adjoint", "8.0 case forgotten", SAME_PATH),
    Row("jit_vjp", "3.1.1 condition turned", BUDGET),
    Row("attention_forward", "3.0.1.0 comparison off by one", SAME_PATH),
    Row("attention_forward", "3.0.1 case forgotten", "q is rounded once more, within what bfloat16 allows"),
    Row("attention_forward", "3.0.1 case forgotten #2", SAME_PATH),
    Row("logits_backward", "5.8.1.2.3 constant changed #2", "0 and -1 are the axis of a bias"),
    Row("loss_forward", "10.1.1.0 factor dropped #2", "it is for the type in shard_map: test_on_several_devices"),
    Row("logits_forward", "3.5.1 case forgotten", NOT_ASKED_FOR),
    Row("logits_forward", "3.5.1.2 constant changed*", NOT_ASKED_FOR),
    Row("loss_forward", "4.1.2.2 constant changed*", UNSELECTED),
    Row("loss_forward", "6.16.1 case forgotten", COST),  # without smoothing it takes 0 away
    Row("Cut.of", "1.1.0 case forgotten*", COST),
    Row("Cut.of", "2.1.0 case forgotten", COST),
    Row("Cut.of", "2.1.0 case forgotten #2", EXPLICIT),
    Row("Cut.of", "2.1.0.2.1 *", COST),
    Row("Cut.of", "[12].1.1 constant changed", "a larger tile of one token, or of one class, is padded, or cut off"),
    Row("Cut.of", "3.1.0.0.0 function confused", "longer padding is read for nothing"),
    Row("Cut.pad", "0.1.0.1 function confused", "longer padding is read by no tile"),
    Row("Cut.pad", "0.1.0.1 term dropped", "longer padding is read by no tile"),
]  # fmt: skip


def reason(mutant: Any) -> str:
    """Why a mutant is equivalent; empty if it is not in the table."""
    return next((row.reason for row in EQUIVALENT if names(row, mutant)), "")


def names(row: Row, mutant: Any) -> bool:
    function = f".{mutant.module}.{mutant.function}"
    return function.endswith(f".{row.function}") and fnmatchcase(mutant.edit.name, row.mistake)
