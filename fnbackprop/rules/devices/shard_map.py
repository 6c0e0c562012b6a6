"""`shard_map`: a function that each device runs on its pieces of the operands.

    forward     (1)  x_d = device d's piece of x, by the in_specs
                (2)  y_d, r_d = f(x_d)                        r_d: the residuals, which stay on their device
                (3)  y = the pieces y_d put together, by the out_specs

    backward    (3)  dy_d = device d's piece of dy, by the out_specs
                (2)  dx_d = fᵀ(x_d, r_d; dy_d)
                (1)  dx = the pieces dx_d put together, by the in_specs

Along a mesh axis that a spec does not mention, every device has a copy of the value. With `check_vma` the types carry
that: a value that does not vary along an axis has one cotangent, and where the body makes it vary (pvary) stands the
sum over the devices. Without, every device has a value of its own: in (3) y is the mean of its equal copies, so each
copy gets its share of dy; in (1) x is copied to all, so dx is the sum over its copies.
"""

from math import prod
from typing import NamedTuple

import jax
from jax import lax
from jax.sharding import PartitionSpec

from ...backprop.memory import residuals, save_policy
from ...backprop.planning_notes import cached_plan
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import cotangent_sharding, lay_out, operand_avals, output_avals
from ...jaxprs.evaluate import source_of, trace_avals
from ...jaxprs.graph import holds
from ...jaxprs.lists import merge, pairs, present, select, split
from ...jaxprs.primitives import Trait, having
from ...jaxprs.types import is_var
from ...jaxprs.views import ShardMap
from ..calls.call import call_activity
from ..expressions import scalar
from .collectives import device_sum


def shard_map_activity(engine, equation, active):
    """As of a call. A body that makes references is rewritten for it, inside the region if it has collectives."""
    region = ShardMap.of(equation)
    if not holds(region.body, having(Trait.MAKES_REFERENCE)):
        return call_activity(engine, equation, active)
    return _inside(region, operand_avals(equation), lambda: engine.active_outputs(region.body, active))


def _inside(region, avals, find):
    """What `find` gives inside the region, where the mesh axes have names, as the rules of its equations may need."""
    found = []

    def probe(*_):
        found.append(find())
        return ()

    trace_avals(region.map(probe, region.in_specs, ()), avals)
    return found[0]


@structured_rule("shard_map", activity=shard_map_activity)
def shard_map_vjp(engine, equation, active, wanted):
    """y_d = f(x_d), dx_d = fᵀ(dy_d) on each device d: the forward and the backward are a `shard_map` each."""
    avals, outputs = tuple(operand_avals(equation)), tuple(output_avals(equation))
    with source_of(equation):
        return _shard_map(engine, ShardMap.of(equation), avals, outputs, active, wanted)


@cached_plan
def _shard_map(engine, region, avals, outputs, active, wanted):
    body = _split_body(engine, region, avals, active, wanted)
    run, pull = _forward(region, body), _backward(region, body, wanted)
    has_cotangent = tuple(ct is not None for ct in body.joint.found)

    def forward(*operands):
        values, saved = run(*operands)
        return values, (tuple(select((*operands, *values), body.held)), saved)

    def backward(residuals, cotangents):
        triples = select(zip(cotangents, outputs, strict=True), wanted)
        cts = tuple(lay_out(engine.instantiate(ct, aval), cotangent_sharding(aval)) for ct, aval in triples)
        return merge(has_cotangent, pull(*residuals, cts))

    return Structured(forward, backward, has_cotangent)


# ---------------------------------------------------------------- the body


class Body(NamedTuple):
    """The body's forward and backward part.

    held: which operands and outputs the backward part reads. They are pieces of whole arrays, and are not saved a
        second time among the residuals.
    """

    joint: residuals.Joint
    parts: residuals.Split
    held: tuple[bool, ...]


def _split_body(engine, region, avals, active, wanted):
    def found():
        plan = engine.plan(region.body, active, wanted)
        joint = residuals.trace_joint(engine, plan, wanted)
        free = [*joint.operands, *filter(is_var, joint.outputs)]
        parts = residuals.split(joint, free, (), save_policy.choose_saved)
        read = {v for e in parts.backward for v in e.invars if is_var(v)}
        read.update(v for v in joint.found if v is not None and is_var(v))
        held = tuple(is_var(v) and v in read for v in (*joint.operands, *joint.outputs))
        return Body(joint, parts, held)

    return _inside(region, avals, found)


# ---------------------------------------------------------------- forward and backward


def _forward(region, body):
    """(*operands) -> (outputs, residuals), where a residual has a first axis, along which each device has its own."""
    joint, parts, _ = body

    def forward(*operands):
        known = pairs((joint.operands, operands))
        out = parts.run(parts.forward, known, [*joint.outputs, *parts.saved])  # (2)
        outputs, saved = split(out, len(joint.outputs))
        return tuple(outputs), tuple(lax.expand_dims(x, (0,)) for x in saved)

    forward.__name__ = "shard_map"
    out_specs = region.out_specs, tuple(stacked(region, v.aval) for v in parts.saved)
    return jax.jit(region.map(forward, region.in_specs, out_specs))  # (1), (3)


def _backward(region, body, wanted):
    """(held operands and outputs, residuals, cotangents) -> the operands' cotangents, those that there are."""
    joint, parts, _ = body
    held = select((*joint.operands, *joint.outputs), body.held)
    held_specs = tuple(select((*region.in_specs, *region.out_specs), body.held))
    saved_specs = tuple(stacked(region, v.aval) for v in parts.saved)
    dy_specs = tuple(select(region.out_specs, wanted))
    dx_specs = tuple(select(region.in_specs, [ct is not None for ct in joint.found]))
    dx_atoms = present(joint.found)

    def backward(values, saved, dy):
        saved = [lax.squeeze(x, (0,)) for x in saved]
        dy = [share(region, spec, ct) for ct, spec in zip(dy, dy_specs, strict=True)]  # (3)
        known = pairs((held, values), (parts.saved, saved), (joint.cotangents, dy))
        dx = parts.run(parts.backward, known, dx_atoms)  # (2)
        return tuple(device_sum(ct, copied(region, spec)) for ct, spec in zip(dx, dx_specs, strict=True))  # (1)

    backward.__name__ = "shard_map_vjp"
    in_specs = held_specs, saved_specs, tuple(map(exchanged, dy_specs))
    return jax.jit(region.map(backward, in_specs, tuple(map(exchanged, dx_specs))))


def share(region, spec, ct):
    """One copy's share of the cotangent of an output that is the mean of its copies."""
    copies = prod(region.mesh.shape[a] for a in copied(region, spec))
    return ct if copies == 1 else lax.div(ct, scalar(copies, ct))


# ---------------------------------------------------------------- specs


def copied(region, spec):
    """The axes along which every device has a copy of its own: without `check_vma`, those that the spec leaves out. The
    cotangents of the copies of a reduced value stay terms, one a device. A hijax type's spec alone knows its axes."""
    if not isinstance(spec, PartitionSpec):
        return ()
    names = [n if isinstance(n, tuple) else (n,) for n in spec.partitions if n is not None]
    mentioned = {name for group in names for name in group} | spec.reduced
    axes = (a for a in region.mesh.axis_names if a in region.axes - region.of_vmap and a not in mentioned)
    return () if region.check else tuple(axes)


def stacked(region, aval):
    """The spec that keeps each device's own value where it is, along a new first axis."""
    manual = aval.manual_axis_type
    varying = manual.varying if region.check else region.axes - region.of_vmap
    order = tuple(a for a in region.mesh.axis_names if a in region.axes and a in varying)
    unreduced, reduced = (frozenset(a for a in axes if a in region.axes) for axes in (manual.unreduced, manual.reduced))
    return PartitionSpec(order or None, unreduced=unreduced, reduced=reduced)


def exchanged(spec):
    """The spec of a cotangent: that of its value, with reduced and unreduced exchanged; a hijax type has its own."""
    if not isinstance(spec, PartitionSpec):
        return spec.to_ct_spec()
    return PartitionSpec(*spec.partitions, unreduced=spec.reduced, reduced=spec.unreduced)
