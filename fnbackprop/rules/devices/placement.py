"""Primitives that place a value: on devices, in memories, in a layout. Each is the identity to the chain rule."""

import jax
from jax import lax
from jax.experimental.layout import with_layout_constraint

from ...backprop.registry import Structured, structured_rule, vjp_rule
from ...jaxprs.avals import aval_of, cotangent_aval, lay_out, operand_avals
from ...jaxprs.evaluate import bind
from ...jaxprs.types import Tracer


@vjp_rule("sharding_constraint")
def sharding_constraint_vjp(dy, **params):
    """The identity; the cotangent lies as the value does."""
    return lax.sharding_constraint_p.bind(dy, **params)


@vjp_rule("layout_constraint")
def layout_constraint_vjp(dy, *, layout):
    """The identity; the cotangent lies as the value does."""
    return with_layout_constraint(dy, layout)


@vjp_rule("reshard")
def reshard_vjp(dy, x_aval):
    """The identity; the cotangent goes back to where x lies, if its type says where."""
    sharding = cotangent_aval(x_aval).sharding
    return dy if sharding.mesh.empty else lay_out(dy, sharding)


@jax.tree_util.register_static
class Places(tuple):
    """Where the operands of a `device_put` lie: a sharding, or None for what is traced."""


@structured_rule("device_put")
def device_put_vjp(engine, equation, active, wanted):
    """The identity; each cotangent goes back to the device or memory that its operand came from."""
    avals = operand_avals(equation)

    def forward(*operands):
        places = Places(None if isinstance(x, Tracer) else x.sharding for x in operands)
        return bind(equation, operands), places

    def backward(places, cotangents):
        return [_put_back(ct, *of) for ct, *of in zip(cotangents, places, equation.params["srcs"], avals, strict=True)]

    return Structured(forward, backward, active)


def _put_back(ct, place, source, aval):
    if ct is None or place is None and source is None and aval_of(ct).memory_space == aval.memory_space:
        return ct
    return jax.device_put(ct, place or source or aval.memory_space)


@vjp_rule("shard_alike", "x, y -> u, v")
def shard_alike_vjp(du, dv):
    """The identity on both."""
    return du, dv


@vjp_rule("host_local_array_to_global_array")
def host_local_array_to_global_array_vjp(dy, *, global_mesh, pspec):
    """y puts together what the processes hold: each takes its piece of dy."""
    from jax.experimental import multihost_utils

    return multihost_utils.global_array_to_host_local_array(dy, global_mesh, pspec)


@vjp_rule("global_array_to_host_local_array")
def global_array_to_host_local_array_vjp(dy, *, global_mesh, pspec):
    """y is the piece of each process: dx puts their cotangents together."""
    from jax.experimental import multihost_utils

    return multihost_utils.host_local_array_to_global_array(dy, global_mesh, pspec)
