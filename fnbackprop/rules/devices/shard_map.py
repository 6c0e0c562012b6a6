"""`shard_map`, and the primitives that place a value on devices.

The backward of `shard_map` is another one: the body's own backward on each device, with the specs exchanged. What
reads a value in pieces writes its cotangent in pieces, and the reverse. For an axis that a spec does not mention,
- with `check_vma`, the types carry all: a value that does not vary along it has one cotangent, and where the body
  makes it vary (pvary) stands the sum over devices;
- without, every device has a value of its own. An output is the mean of its copies, since they are equal, so each
  gets its share of dy; an input is copied to all, so its cotangent is their sum.
"""

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental.layout import with_layout_constraint
from jax.sharding import PartitionSpec

from ...backprop.memory import residuals, save_policy
from ...backprop.registry import Structured, structured_rule, vjp_rule
from ...jaxprs.avals import aval_of, cotangent_aval, operand_avals, output_avals
from ...jaxprs.evaluate import bind, source_of, trace_avals
from ...jaxprs.types import Tracer, close_jaxpr, is_var
from ..arrays.layouts import explicit_sharding
from ..calls.calls import inner_activity
from ..expressions import scalar
from .collectives import device_sum


class Region(NamedTuple):
    """A `shard_map` but for its function: the mesh, the axes that it makes manual, and how values are laid out."""

    mesh: Any
    axes: frozenset[Any]
    check: bool
    in_specs: tuple[Any, ...]
    out_specs: tuple[Any, ...]

    def map(self, fun, in_specs, out_specs):
        """`fun` as a function of whole arrays, run by each device on its pieces."""
        return jax.shard_map(
            fun, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names=self.axes, check_vma=self.check
        )

    def copied(self, spec):
        """The axes along which every device has a copy of its own: those that the spec does not mention."""
        names = [n if isinstance(n, tuple) else (n,) for n in spec.partitions if n is not None]
        mentioned = {name for group in names for name in group}
        return () if self.check else tuple(a for a in self.mesh.axis_names if a in self.axes and a not in mentioned)

    def stacked(self, aval):
        """The spec that keeps each device's own value where it is, along a new first axis."""
        manual = aval.manual_axis_type
        varying = manual.varying if self.check else self.axes
        order = tuple(a for a in self.mesh.axis_names if a in self.axes and a in varying)
        held = (frozenset(a for a in kind if a in self.axes) for kind in (manual.unreduced, manual.reduced))
        return PartitionSpec(order or None, **dict(zip(("unreduced", "reduced"), held, strict=True)))


@structured_rule("shard_map", activity=inner_activity)
def shard_map_vjp(engine, equation, active, wanted):
    """Forward and backward of the body, each in a `shard_map`; what the backward reads stays on its device."""
    params = equation.params
    region = Region(
        params["mesh"], params["newly_manual_axes"], params["check_vma"],
        tuple(params["in_specs"]), tuple(params["out_specs"]),
    )  # fmt: skip
    avals = tuple(operand_avals(equation))
    outputs = tuple(output_avals(equation))
    with source_of(equation):
        return _shard_map(engine, close_jaxpr(params["jaxpr"]), region, avals, outputs, active, wanted)


@lru_cache(maxsize=4096)
def _shard_map(engine, closed, region, avals, outputs, active, wanted):
    body = _body(engine, closed, region, avals, active, wanted)
    run, pull = _forward(body, region), _backward(body, region, wanted)
    held = body.held()

    def forward(*operands):
        values, saved = run(*operands)
        whole = zip((*operands, *values), held, strict=True)
        return values, (tuple(x for x, on in whole if on), saved)

    def backward(residual, cotangents):
        pairs = zip(cotangents, outputs, wanted, strict=True)
        cts = tuple(_placed(engine.instantiate(ct, aval), aval) for ct, aval, on in pairs if on)
        found = iter(pull(*residual, cts))
        return [None if ct is None else next(found) for ct in body.joint.found]

    has_cotangent = tuple(a and ct is not None for a, ct in zip(active, body.joint.found, strict=True))
    return Structured(forward, backward, has_cotangent)


class Body(NamedTuple):
    """A body's forward and backward, traced as one and then parted."""

    joint: residuals.Joint
    split: residuals.Split

    def held(self):
        """Which operands and outputs the backward reads: they exist as whole arrays, and are not saved again."""
        atoms = {v for e in self.split.backward for v in e.invars if is_var(v)}
        atoms.update(v for v in self.joint.found if v is not None and is_var(v))
        return [is_var(v) and v in atoms for v in (*self.joint.operands, *self.joint.outputs)]


def _body(engine, closed, region, avals, active, wanted):
    """Traced inside the region, where the axes have names, as the rules of what stands in it may need."""
    found = []

    def probe(*_):
        plan = engine.plan(closed, active, wanted)
        joint = residuals.trace_joint(engine, plan, wanted, [False] * len(active))
        free = [*joint.operands, *filter(is_var, joint.outputs)]
        found.append(Body(joint, residuals.split(joint, free, (), save_policy.choose_saved)))
        return ()

    trace_avals(region.map(probe, region.in_specs, ()), avals)
    return found[0]


def _forward(body, region):
    """(*operands) -> (outputs, saved), where what is saved has a first axis, a device's own value along it."""
    joint, split = body

    def forward(*operands):
        out = split.run(split.forward, zip(joint.operands, operands, strict=True), [*joint.outputs, *split.saved])
        count = len(joint.outputs)
        return tuple(out[:count]), tuple(lax.expand_dims(x, (0,)) for x in out[count:])

    forward.__name__ = "shard_map"
    specs = region.out_specs, tuple(region.stacked(v.aval) for v in split.saved)
    return jax.jit(region.map(forward, region.in_specs, specs))


def _backward(body, region, wanted):
    """(operands and outputs that are read, saved, cotangents) -> the operands' cotangents."""
    joint, split = body
    whole = zip((*joint.operands, *joint.outputs), (*region.in_specs, *region.out_specs), body.held(), strict=True)
    held = [(v, spec) for v, spec, on in whole if on]
    ct_specs = tuple(s for s, on in zip(region.out_specs, wanted, strict=True) if on)
    found_specs = tuple(s for s, ct in zip(region.in_specs, joint.found, strict=True) if ct is not None)
    atoms = [ct for ct in joint.found if ct is not None]

    def backward(arrays, stacked, cotangents):
        stacked = [lax.squeeze(x, (0,)) for x in stacked]
        cotangents = [_share(ct, region, spec) for ct, spec in zip(cotangents, ct_specs, strict=True)]
        variables = (*(v for v, _ in held), *split.saved, *joint.cotangents)
        pairs = zip(variables, (*arrays, *stacked, *cotangents), strict=True)
        found = split.run(split.backward, pairs, atoms)
        return tuple(device_sum(ct, region.copied(s)) for ct, s in zip(found, found_specs, strict=True))

    backward.__name__ = "shard_map_vjp"
    in_specs = (
        tuple(spec for _, spec in held),
        tuple(region.stacked(v.aval) for v in split.saved),
        tuple(map(_exchanged, ct_specs)),
    )
    return jax.jit(region.map(backward, in_specs, tuple(map(_exchanged, found_specs))))


def _placed(ct, aval):
    """A cotangent where its value lies, as a mesh with explicit axes demands."""
    sharding = explicit_sharding(cotangent_aval(aval))
    return ct if sharding is None else jax.sharding.reshard(ct, sharding)


def _share(ct, region, spec):
    """One copy's share of the cotangent of an output that is the mean of its copies."""
    copies = prod(region.mesh.shape[a] for a in region.copied(spec))
    return ct if copies == 1 else lax.div(ct, scalar(copies, ct))


def _exchanged(spec):
    """The spec of a cotangent: that of its value, but reduced and unreduced exchanged."""
    return PartitionSpec(*spec.partitions, unreduced=spec.reduced, reduced=spec.unreduced)


# ---------------------------------------------------------------- placement


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
    return dy if sharding.mesh.empty else jax.sharding.reshard(dy, sharding)


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
