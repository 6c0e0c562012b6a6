"""Mutants that are no mistakes, or none that a gradient shows: each with its reason.

A row names the function and a pattern of the place and kind of the mistake, as the report prints them. Those of rules
for single equations stand in `equivalent_mathematics.py`; here are those of what holds programs, and of blocks.
"""

from fnmatch import fnmatchcase
from typing import Any

from .equivalent_mathematics import MATHEMATICS
from .reasons import (
    BUDGET,
    CHECKPOINTS,
    COST,
    EXPLICIT,
    IGNORED,
    NO_SIZE,
    NOT_ASKED_FOR,
    ONE_BATCH,
    PLACEMENT,
    REPORT,
    SAME_PATH,
    TWO_AXES,
    UNSELECTED,
    WARNING,
    Row,
)

EQUIVALENT = [
    *MATHEMATICS,
    Row("jit_vjp", "2.0* *", SAME_PATH),
    Row("_cond", "0.1 case forgotten #2", COST),
    Row("_cond", "8.1.1.1.0.0.1 constant changed", "all branches take operands of the same types"),
    Row("_cond", "14.0.2.0 flag turned", IGNORED),
    Row("_chooser", "2.0 condition confused", COST),
    Row("recompute", "8.2.0 *", REPORT),
    Row("remat_vjp", "2.1 case forgotten", COST),
    Row("remat_vjp", "1.1.1.1 flag turned", COST),
    Row("stacked", "1.1 case forgotten", "each device keeps its own value; nothing moves it in between"),
    Row("_split_body", "0.6.1.0.0 condition confused", "more is held than is read: it costs memory alone"),
    Row("_put_back", "0.0* *", PLACEMENT),
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
    *(Row(f"decisions.{name}", "*", WARNING) for name in ("decided_carries", "decided_carries_of_scan")),
    *(Row(f"decisions.{name}", "*", WARNING) for name in ("_is_compared", "_reached")),
    Row("_gathered", "2.0.1.1.0.0 factor dropped", ONE_BATCH),
    Row("Checkpoints.thinned", "1.1.0.1 term dropped", CHECKPOINTS),
    Row("_combining", "4.1.0.0 flag turned", IGNORED),
    Row("while_loop._forward", "4.1.0 condition dropped #2", CHECKPOINTS),
    Row("while_loop._forward", "4.1.0 function confused", CHECKPOINTS),
    Row("while_loop._forward", "4.1.0.0 comparison *", CHECKPOINTS),
    Row("decisions.warn_of_decisions", "*", WARNING),
    Row("scan._describe", "*", REPORT),
    Row("_transposed_rows", "10.1.1.1 *", "padding has no row, so that its column is not read"),
    Row("step_axes", "0.0.0.0.1 *", "a condition has one result"),
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
    Row("_put_back", "1.0.1 *", PLACEMENT),
    Row("Entries.arrange", "7.1.0 case forgotten #2", "it differs in a sum over a shared batch, which JAX gets wrong"),
    Row("View.write", "3.0.0 condition confused", "a scatter of nothing leaves the zeros as they are"),
    Row("scan_activity", "3.0.0.1.1.2.0 flag turned", "a result that depends on nothing active passes nothing on"),
    Row("stacked", "1.1.2 term dropped", "it is for a vmap of the gradient, as in test_vmap_of_grad_along_a_mesh_axis"),
    Row("_jitted", "0.1.1.1 constant changed #2", BUDGET),
    Row("split_step", "7.1 case forgotten", BUDGET),
    Row("shard_map._split_body", "0.5.0.0.1.2 condition confused", "what is added is no variable, and not looked for"),
    Row("Masked.no_steps", "0.0.0.0.1 constant changed #2", "n and the number of steps taken are of one type"),
    Row("_gathered", "2.0.1.1.0.0 factor dropped #2", EXPLICIT),
    Row("Entries._starts", "1.1.3.0 term dropped #2", "-1 is the last axis as well"),
    Row("_typed_as", "3.2.0.0.0 case forgotten", "the loop itself gives the same numbers"),
    Row("ScanStep.zero_sums", "0.0.0.1.0.0.1 constant changed #2", "all terms of a sum are of one type"),
    Row("scan_vjp", "1.0.0 mask forgotten", WARNING),
    Row("spsolve_vjp", "2.5.1 case forgotten", IGNORED),
    Row("varying_steps._varied", "0.0.1.0.0.0.1 constant changed #2", "pvary has one operand"),
    Row("copied", "2.1 condition dropped", EXPLICIT),
    Row("while_vjp", "6.0 case forgotten", "the loop itself gives the same numbers"),
    Row("plan_step", "1.1.0.0 condition confused", COST),
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
