"""Sorting and selecting: a sort is a permutation of each row, and its VJP the inverse permutation.

`dx` is the cotangent of `x`: same shape and dtype.
"""

from jax import lax

from ...backprop.registry import Structured, structured_rule, vjp_rule
from ...jaxprs.avals import explicit_sharding
from .indexing import write_along
from .layouts import vary_alike


def sort_activity(engine, equation, active):
    """Each output depends on its own operand: the keys decide the order, which is piecewise constant."""
    return active


@structured_rule("sort", activity=sort_activity)
def sort_vjp(engine, equation, active, wanted):
    """y[k] = x[p[k]] along `dimension`, for all operands: an iota sorted with them is p, and dx[p[k]] = dy[k].

    Only p is kept. It comes from the forward's own sort, so ties and NaNs fall as they did there. In `shard_map` it
    varies where an operand does; each y keeps the type that its equation has, on which JAX's own gradients rely."""
    params = equation.params
    axis, aval = params["dimension"], equation.invars[0].aval

    def forward(*xs):
        iota = lax.broadcasted_iota("int32", aval.shape, axis, out_sharding=explicit_sharding(aval))
        *ys, p = equation.primitive.bind(*xs, vary_alike([*xs, iota])[-1], **params)
        return ys, p

    def backward(p, dys):
        pairs = zip(dys, active, strict=True)
        return [write_along(dy, p, axis, aval.shape[axis]) if on and dy is not None else None for dy, on in pairs]

    return Structured(forward, backward, tuple(a and w for a, w in zip(active, wanted, strict=True)))


@vjp_rule("top_k", "x -> y, k")
def top_k_vjp(dy, k, x_aval, *, axis):
    """y = x[k] for the k that the forward chose: dx is dy at k, zero elsewhere."""
    return write_along(dy, k, axis, x_aval.shape[axis])


@vjp_rule("approx_top_k", "x -> y, k")
def approx_top_k_vjp(dy, k, x_aval, *, reduction_dimension):
    """y = x[k] for the k that the forward chose; padding of a partial result has no index in x and is left out."""
    axis = reduction_dimension % len(x_aval.shape)
    return write_along(dy, k, axis, x_aval.shape[axis], mode="drop")
