"""Every primitive of the installed JAX is ruled, without derivative, or unsupported with a reason that is allowed."""

import ast
import subprocess
import sys

import jax.experimental.pallas
import jax.experimental.sparse  # noqa: F401
from jax.extend.core import Primitive

import fnbackprop as fb

# What a reason for having no rule may begin with.
KINDS = ("Pallas and Mosaic:", "internal:", "a host function or foreign kernel")

# The primitives that people meet, as a guard against a rule that is struck from the list instead of written.
RULED = """add add_any sub mul div neg sin exp log tanh logistic pow integer_pow sqrt rsqrt erf lgamma digamma igamma
    max min reduce_sum reduce_max reduce_prod cumsum cumprod dot_general ragged_dot_general
    conv_general_dilated gather scatter scatter-add dynamic_slice dynamic_update_slice sort top_k fft cholesky qr lu
    svd eigh eig triangular_solve custom_linear_solve tridiagonal_solve jit scan while cond custom_jvp_call
    custom_vjp_call remat2 linear_call custom_vmap_call composite name optimization_barrier shard_map psum all_gather
    all_to_all ppermute reduce_scatter sharding_constraint new_ref get swap addupdate freeze run_state""".split()

# Of the primitives that JAX has a differentiation rule for, in JAX 0.10.2 and 0.12: those that are constants to the
# chain rule here (JAX's rule says zero), and those without a rule here.
CONSTANT = """and argmax argmin bitcast_convert_type ceil check dce_sink debug_callback debug_print eq eq_to floor ge gt
    inspect_sharding is_finite le le_to lt lt_to mulhi ne not or random_bits random_fold_in random_seed random_split
    random_unwrap random_wrap round shift_left shift_right_arithmetic shift_right_logical stop_gradient xor""".split()
WITHOUT_A_RULE = """accum_grad_in_ref box_get box_set call_hi_primitive ffi_call get_global io_callback
    log_extend log_read masked_load masked_swap mpmd_map new_box new_log pallas_call pure_callback
    with_memory_space_constraint""".split()


def in_a_process_of_its_own(code):
    """What the code prints, as a Python value: other tests make primitives, without a rule and in JAX's tables."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ast.literal_eval(ran.stdout)


def test_no_primitive_is_missing():
    code = "import fnbackprop as fb; print([row.primitive for row in fb.coverage().missing])"
    assert in_a_process_of_its_own(code) == []


def test_unsupported_primitives():
    rows = fb.coverage().of("unsupported")
    assert [row for row in rows if not row.by.startswith(KINDS)] == []
    callbacks = [row.primitive for row in rows if row.by.startswith(KINDS[-1])]
    assert callbacks == ["ffi_call", "io_callback", "pure_callback"]


DIFFERENTIATED = """
import jax.experimental.pallas, jax.experimental.sparse, fnbackprop as fb
from jax.interpreters import ad
names = {primitive.name for primitive in (*ad.primitive_jvps, *ad.primitive_transposes)}
print({row.primitive: row.kind for row in fb.coverage().rows if row.primitive in names})
"""


def test_what_jax_differentiates():
    """Every primitive in JAX's own tables has a rule here, but for those of two lists that are written out above."""
    kinds = in_a_process_of_its_own(DIFFERENTIATED)
    of = {kind: {name for name in kinds if kinds[name] == kind} for kind in set(kinds.values())}
    assert len(of["rule"]) >= 150 and set(of) == {"rule", "no derivative", "unsupported"}
    assert of["no derivative"] == set(CONSTANT)
    assert of["unsupported"] <= set(WITHOUT_A_RULE)


def test_what_must_be_ruled():
    kinds = {row.primitive: row.kind for row in fb.coverage().rows}
    assert {name: kinds[name] for name in RULED if kinds.get(name, "rule") != "rule"} == {}


def test_a_planted_primitive_is_missing():
    planted = Primitive("planted_for_the_coverage_test")
    assert planted.name in [row.primitive for row in fb.coverage().missing]
    fb.nondifferentiable(planted, reason="planted")
    assert planted.name not in [row.primitive for row in fb.coverage().missing]
