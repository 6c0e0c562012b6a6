"""Reading at indices: gather, dynamic_slice, dynamic_update_slice.

`dx` is the cotangent of `x`: same shape, same dtype.
"""

from typing import Any

from jax import lax
from jax.lax import ScatterDimensionNumbers

from ...backprop.registry import vjp_rule
from ...jaxprs.avals import aval_of, explicit_sharding, lay_out, replicated
from .. import expressions
from ..expressions import wide
from .layouts import zeros_of
from .selection import Selection


@expressions.vjp_rule("gather", "x, i -> y", wrt="x")
def gather_vjp(dy, i, x_aval, **params):
    """y = S x, with S the 0-1 matrix of the reads: dx = Sᵀ dy, a scatter-add into zeros. What several windows read is
    added up in float32 if dy is narrower."""
    S = Selection.of_gather(i, **params)
    return S.transposed(dy if S.distinct else wide(dy), x_aval)


@vjp_rule("dynamic_slice", "x, *starts -> y", wrt="x")
def dynamic_slice_vjp(dy, starts, x_aval, *, slice_sizes):
    """dx is dy at the places that were read, zero elsewhere; both operations clamp the starts alike."""
    return _update(zeros_of(x_aval, dy.dtype), dy, starts)


@vjp_rule("dynamic_update_slice", "x, u, *starts -> y", wrt="x")
def dynamic_update_slice_vjp_x(dy, u_aval, starts):
    """y = x with u written over a window: dx is dy with zeros in the window."""
    return _update(dy, zeros_of(u_aval, dy.dtype), starts)


@vjp_rule("dynamic_update_slice", "x, u, *starts -> y", wrt="u")
def dynamic_update_slice_vjp_u(dy, u_aval, starts):
    """y = x with u written over a window: du is dy in the window."""
    return lax.dynamic_slice(dy, starts, u_aval.shape, allow_negative_indices=False)


def _update(x, u, starts):
    """u written over a window of x. If one of them lies on no mesh and the other is laid out on an explicit one, as
    what comes back from a `shard_map` may be, both are taken as a whole on it."""
    known = [sharding for sharding in map(explicit_sharding, map(aval_of, (x, u))) if sharding]
    if len(known) == 1:
        x, u = (lay_out(v, replicated(known[0].mesh, v.ndim)) for v in (x, u))
    return lax.dynamic_update_slice(x, u, starts, allow_negative_indices=False)


def write_along(values: Any, indices: Any, axis: int, size: int, mode: str = "promise_in_bounds") -> Any:
    """Each row's values at its distinct indices along `axis`, zero elsewhere: undoes a `take_along_axis`."""
    others = tuple(d for d in range(values.ndim) if d != axis)
    dimensions = ScatterDimensionNumbers((), (axis,), (axis,), others, others)
    shape = tuple(size if d == axis else n for d, n in enumerate(values.shape))
    starts = lax.expand_dims(indices, (indices.ndim,))  # (*values.shape, 1)
    zeros = lax.full(shape, 0, values.dtype, sharding=explicit_sharding(aval_of(values)))
    return lax.scatter_add(zeros, starts, values, dimensions, unique_indices=True, mode=mode)
