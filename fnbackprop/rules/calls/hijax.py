"""Primitives of `jax.experimental.hijax`: classes that bring their own derivative with them, users' or JAX's.

JAX 0.12 makes some of its own operations this way: `jnp.ldexp`, `jnp.frexp`, `lax.custom_root`. All are bound as one
primitive, whose parameter is the object that knows what it is and how it is differentiated.
"""

import jax
from jax.experimental import hijax

from ...backprop.missing_rule import MissingRule
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import as_jax_array, operand_avals, output_avals
from ...jaxprs.compat import Accumulator, NullAccumulator, hijax_gives, is_hijax_checkpoint
from ...jaxprs.custom import CustomJvp
from ...jaxprs.evaluate import bind, source_line, trace_avals
from .call import call_activity
from .custom import walk_jvp
from .remat import remat_vjp


def _activity(engine, equation, active):
    return call_activity(engine, equation, active) if is_hijax_checkpoint(equation) else [True] * len(equation.outvars)


@structured_rule("call_hi_primitive", activity=_activity)
def call_hi_primitive_vjp(engine, equation, active, wanted):
    """The class's own backward if it gives one, else the walk over its JVP. Within such a walk it may stand again, for
    the tangents, in which it is then linear: its own transpose. The newer `jax.checkpoint` is ours, as the older one.
    """
    primitive = equation.params["_prim"]
    if is_hijax_checkpoint(equation):
        return remat_vjp(engine, equation, active, wanted)
    if engine.in_jvp and hijax_gives(primitive, "transpose"):
        return _transposed(engine, equation, active)
    if hijax_gives(primitive, "vjp_fwd"):
        return _own_vjp(equation, active)
    if hijax_gives(primitive, "jvp"):
        return walk_jvp(engine, equation, _jvp(equation, active), active, wanted)
    raise MissingRule([(equation, source_line(equation))])


def _jvp(equation, active):
    """Its JVP, as a jaxpr, with tangents for the active operands."""
    primitive, avals = equation.params["_prim"], operand_avals(equation)
    given = tuple(i for i, on in enumerate(active) if on)
    nonzero = []

    def both(*flat):
        tangents = [hijax.Zero(aval.to_tangent_aval()) for aval in avals]
        for i, tangent in zip(given, flat[len(avals) :], strict=True):
            tangents[i] = tangent
        primals, tangents = (primitive.in_tree.unflatten(group) for group in (flat[: len(avals)], tangents))
        outputs, found = map(primitive.out_tree.flatten_up_to, primitive.jvp(primals, tangents))
        nonzero[:] = [not isinstance(t, hijax.Zero) for t in found]
        return [*outputs, *(t for t, on in zip(found, nonzero, strict=True) if on)]

    closed = trace_avals(both, [*avals, *(avals[i].to_tangent_aval() for i in given)])
    positions = iter(range(len(nonzero), 2 * len(nonzero)))
    return CustomJvp(closed, 0, given, tuple(next(positions) if on else None for on in nonzero))


def _transposed(engine, equation, active):
    """What is linear in its active operands: the class's `transpose` adds up their cotangents."""
    primitive, avals = equation.params["_prim"], operand_avals(equation)

    def forward(*operands):
        return bind(equation, operands), tuple(None if on else x for x, on in zip(operands, active, strict=True))

    def backward(known, cotangents):
        sums = [Accumulator(a.to_ct_aval()) if on else x for x, a, on in zip(known, avals, active, strict=True)]
        cts = [engine.instantiate(ct, v.aval) for ct, v in zip(cotangents, equation.outvars, strict=True)]
        primitive.transpose(primitive.out_tree.unflatten(cts), *primitive.in_tree.unflatten(sums))
        return [_found(x.freeze()) if on else None for x, on in zip(sums, active, strict=True)]

    return Structured(forward, backward, active)


def _own_vjp(equation, active):
    """The class's own forward, which returns the residuals, and backward."""
    primitive, avals = equation.params["_prim"], operand_avals(equation)

    def forward(*operands):
        operands, flags = (primitive.in_tree.unflatten(group) for group in (operands, active))
        outputs, residuals, *rest = primitive.vjp_fwd(flags, *operands)
        return jax.tree.leaves(outputs), (residuals, *rest[1:])  # rest: which outputs have tangents, more residuals

    def backward(residuals, cotangents):
        pairs = zip(cotangents, output_avals(equation), strict=True)
        cts = [hijax.Zero(aval.to_ct_aval()) if ct is None else ct for ct, aval in pairs]
        cts = primitive.out_tree.unflatten(cts)
        if not hijax_gives(primitive, "vjp_bwd"):
            found = primitive.vjp_bwd_retval(*residuals, cts)
            return [_found(ct) for ct in primitive.in_tree.flatten_up_to(found)]
        kinds = [Accumulator if on else NullAccumulator for on in active]
        sums = [kind(aval.to_ct_aval()) for kind, aval in zip(kinds, avals, strict=True)]
        primitive.vjp_bwd(*residuals, cts, *primitive.in_tree.unflatten(sums))
        return [_found(x.freeze()) if on else None for x, on in zip(sums, active, strict=True)]

    return Structured(forward, backward, active)


def _found(ct):
    """A cotangent that the class gives, which may be a Python number; None for zero."""
    if ct is None or isinstance(ct, hijax.Zero) or getattr(ct, "dtype", None) == jax.dtypes.float0:
        return None
    return as_jax_array(ct)
