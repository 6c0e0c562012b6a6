"""Small programs, at least one for each primitive with a rule: what a mutant is looked for in.

Shapes are tiny and square where an exchange of axes would else show as an error; operands keep off kinks and poles
except in the programs that are about them. All is float32, as users compute.
"""

from . import arrays, contractions, control, elementwise, linear_algebra, sparse  # noqa: F401 (each fills the table)
from .table import EXISTING as EXISTING
from .table import PROGRAMS as PROGRAMS
from .table import Program as Program

# Registered, and without a program here.
WITHOUT_PROGRAM = {
    **dict.fromkeys(
        ("core_call", "closed_call", "eval_jaxpr", "remat_opt", "call", "call_hi_primitive"),
        "the rule of a call that is met inside JAX alone",
    ),
    "custom_partitioning": "the rule of composite, which has a program",
    **dict.fromkeys(("to_edtype", "from_edtype"), "the rule of name, which has a program"),
    **dict.fromkeys(("pbroadcast", "pbroadcast_dynamic", "ragged_all_to_all"), "the CPU does not run it"),
    **dict.fromkeys(
        ("host_local_array_to_global_array", "global_array_to_host_local_array"), "it needs a mesh of several processes"
    ),
    **dict.fromkeys(("coo_spmv", "coo_spmm", "csr_spmv", "csr_spmm"), "a kernel for GPUs alone"),
    "rng_uniform": "its numbers are drawn anew at each call",
    "stage": "it is gone once a function is traced",
    **dict.fromkeys(("relayout", "shard_alike"), "an identity for the compiler alone"),
    **dict.fromkeys(
        ("all_gather_reduced", "preduced", "reduced_vary_cast", "reduced_vary_cast_p", "unreduced_psum", "reshard")
        + ("unreduced_reduce_scatter", "vary_unreduced_cast", "vary_unreduced_cast_p"),
        "it needs a mesh with explicit axes around the whole comparison",
    ),
}
