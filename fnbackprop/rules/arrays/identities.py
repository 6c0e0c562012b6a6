"""Primitives that return their operand: names, tags, layouts, casts. The cotangent passes as it is."""

import jax.numpy as jnp

from ...backprop.registry import vjp_rule


@vjp_rule("broadcast_to")  # repeats it: the engine sums the cotangent back to the operand's shape
@vjp_rule("convert_element_type")  # the engine casts the cotangent back
@vjp_rule("from_edtype")  # from and to an extended dtype, whose author says how cotangents add up: likewise
@vjp_rule("to_edtype")
@vjp_rule("name")  # `checkpoint_name` marks a value for a remat policy
@vjp_rule("relayout")  # the compiler lays out the cotangent
@vjp_rule("stage")  # lifted into the trace
@vjp_rule("xla_metadata_value")  # the metadata belong to the forward operation alone
def identity_vjp(dy):
    """y = x, dx = dy."""
    return dy


@vjp_rule("copy")
def copy_vjp(dy):
    """y = x in memory of its own, and so is dx, which may be donated."""
    return jnp.copy(dy)


@vjp_rule("tie", "x, y -> z")
def tie_vjp(dz):
    """z = y, after x, on whose value it does not depend."""
    return None, dz
