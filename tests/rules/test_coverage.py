"""Every primitive of the installed JAX is ruled, without derivative, or outside with a reason that is allowed."""

import subprocess
import sys

import jax.experimental.pallas
import jax.experimental.sparse  # noqa: F401
from jax.extend.core import Primitive

import fnbackprop as fb

# What a reason for having no rule may begin with.
KINDS = ("sparse:", "Pallas and Mosaic:", "internal:", "a host function or foreign kernel")

# The primitives that people meet, as a guard against a rule that is struck from the list instead of written.
RULED = """add add_any sub mul div neg sin exp log tanh logistic pow integer_pow sqrt rsqrt erf lgamma digamma igamma
    max min reduce_sum reduce_max reduce_prod cumsum cumprod dot_general ragged_dot_general
    conv_general_dilated gather scatter scatter-add dynamic_slice dynamic_update_slice sort top_k fft cholesky qr lu
    svd eigh eig triangular_solve custom_linear_solve tridiagonal_solve jit scan while cond custom_jvp_call
    custom_vjp_call remat2 linear_call custom_vmap_call composite name optimization_barrier shard_map psum all_gather
    all_to_all ppermute reduce_scatter sharding_constraint new_ref get swap addupdate freeze run_state""".split()


def test_no_primitive_is_missing():
    """In a process of its own: other tests make primitives without a rule."""
    code = "import fnbackprop as fb; print([row.primitive for row in fb.coverage().missing])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_what_is_outside():
    rows = fb.coverage().of("outside")
    assert [row for row in rows if not row.by.startswith(KINDS)] == []
    callbacks = [row.primitive for row in rows if row.by.startswith(KINDS[-1])]
    assert callbacks == ["ffi_call", "io_callback", "pure_callback"]


def test_what_must_be_ruled():
    kinds = {row.primitive: row.kind for row in fb.coverage().rows}
    assert {name: kinds[name] for name in RULED if kinds.get(name, "rule") != "rule"} == {}


def test_a_planted_primitive_is_missing():
    planted = Primitive("planted_for_the_coverage_test")
    assert planted.name in [row.primitive for row in fb.coverage().missing]
    fb.nondifferentiable(planted, reason="planted")
    assert planted.name not in [row.primitive for row in fb.coverage().missing]
