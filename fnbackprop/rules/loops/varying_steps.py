"""While loops in `shard_map` whose number of steps varies from device to device, as the condition's type says.

No device may wait in the backward loop for others, which may have fewer steps: whatever the loop reads becomes a value
of each device before it, and the sums over the devices are taken once after it.

    forward     (1)  c_d = c, h_d = h: one value, on every device d
                (2)  the loop, on each device
    backward    (2)  dc_d, dh_d, on each device
                (1)  dc = Σ_d dc_d,  dh = Σ_d dh_d

JAX's type of a carry may say that the devices agree on it, as on a counter of steps. If a cotangent comes to one, it is
that of the mean of equal values: each device has its share.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

from jax import lax

from ...jaxprs.avals import aval_of, cotangent_aval, vary, varying_axes
from ...jaxprs.evaluate import bind, interpret, trace_avals
from ...jaxprs.graph import with_inner_jaxprs
from ...jaxprs.primitives import Trait, has
from ...jaxprs.views import While
from ..devices.collectives import device_sum
from ..expressions import scalar


def step_axes(loop: While) -> frozenset[Any]:
    """The mesh axes along which the number of steps varies."""
    return varying_axes(loop.condition.jaxpr.outvars[0].aval)


def varied(loop: While, axes: frozenset[Any]) -> While:
    """The loop on operands that vary along these axes; so do its results."""
    if not axes:
        return loop
    return loop._replace(condition=_varied(loop.condition, axes), body=_varied(loop.body, axes))


@lru_cache(maxsize=4096)
def _varied(closed: Any, axes: frozenset[Any]) -> Any:
    def apply(equation, values):
        if equation.primitive.name == "pvary":
            return [vary(values[0], equation.params["axes"])]
        if not any(axes & varying_axes(aval_of(x)) for x in values):
            return bind(equation, values)
        if any(has(equation, trait) for trait in (Trait.CALL, Trait.CONTROL_FLOW, Trait.CUSTOM_RULE)):
            equation = with_inner_jaxprs(equation, lambda body: _varied(body, axes))
        return bind(equation, vary_all(values))

    def vary_all(values):
        return [vary(x, axes) for x in values]

    def function(*operands):
        return vary_all(interpret(closed.jaxpr, closed.consts, operands, apply))

    avals = [v.aval for v in closed.jaxpr.invars]
    avals = [v.aval for v in trace_avals(lambda *operands: vary_all(operands), avals).jaxpr.outvars]
    return trace_avals(function, avals)


def shares(cotangents: Sequence[Any], avals: Sequence[Any], axes: frozenset[Any]) -> list[Any]:
    """Each device's cotangents of results of these avals, None where there is none."""
    return [
        ct if ct is None else _share(ct, axes - varying_axes(aval)) for ct, aval in zip(cotangents, avals, strict=True)
    ]


def _share(ct: Any, axes: frozenset[Any]) -> Any:
    if not axes:
        return ct
    return lax.div(vary(ct, axes), scalar(prod(lax.axis_size(a) for a in axes), ct))


def sums(cotangents: Sequence[Any], avals: Sequence[Any], axes: frozenset[Any]) -> list[Any]:
    """(1): the cotangents of operands of these avals, from each device's; None where there is none."""
    pairs = zip(cotangents, avals, strict=True)
    return [ct if ct is None else _sum(ct, axes - varying_axes(cotangent_aval(aval))) for ct, aval in pairs]


def _sum(ct: Any, axes: frozenset[Any]) -> Any:
    return device_sum(ct, sorted(axes, key=str))
