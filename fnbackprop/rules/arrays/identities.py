"""Primitives that return their operand: names, tags, layouts, orderings. The cotangent passes as it is."""

from ...backprop.registry import vjp_rule


@vjp_rule("name")
def name_vjp(dy):
    """`checkpoint_name` marks a value for a remat policy."""
    return dy


@vjp_rule("stage")
def stage_vjp(dy):
    """The identity, lifted into the trace."""
    return dy


@vjp_rule("tie", "x, y -> z", wrt="y")
def tie_vjp_y(dz):
    """z = y, after x."""
    return dz


@vjp_rule("tie", "x, y -> z", wrt="x")
def tie_vjp_x():
    """z does not depend on the value of x."""
    return None


@vjp_rule("relayout")
def relayout_vjp(dy):
    """The same values in another layout; the compiler lays out the cotangent."""
    return dy


@vjp_rule("xla_metadata_value")
def xla_metadata_value_vjp(dy):
    """The metadata belong to the forward operation alone."""
    return dy


@vjp_rule("broadcast_to")
def broadcast_to_vjp(dy):
    """Repeats its operand; the driver sums the cotangent back to the operand's shape."""
    return dy
