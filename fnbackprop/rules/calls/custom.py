"""The user's own derivative rules: custom_jvp, custom_vjp (and its tangents, custom_lin), linear_call."""

import jax

from ...backprop.jvp_by_rules import is_made_of_rules
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import aval_of, output_avals, zero_tangent
from ...jaxprs.custom import (
    check_outputs,
    custom_jvp_jaxpr,
    custom_vjp_of_equation,
    linear_call_functions,
)
from ...jaxprs.custom_tangents import at_zero_tangents
from ...jaxprs.escaped import read_by_custom_vjp, refuse_escaped
from ...jaxprs.evaluate import bind, source_line
from ...jaxprs.lists import split
from ...jaxprs.views import Call
from .call import walk_inline

# ---------------------------------------------------------------- custom_jvp


@structured_rule("custom_jvp_call")
def custom_jvp_vjp(engine, equation, active, wanted):
    """(y, t_y) = jvp(x, t_x) is linear in t_x, so its walk back at t_x = 0 takes dy, the cotangent of t_y, to dx.

    Which outputs depend on what is not derived from the function itself: `round` depends on nothing differentiably,
    but the user's rule may give it a derivative.

    Where a JVP applies such a function to tangents, it is the function itself that is linear in them and walked; so
    is one whose JVP was made of the rules that the walk uses."""
    if engine.in_jvp or is_made_of_rules(equation):
        return walk_inline(engine, Call.of(equation).body, active, wanted)
    jvp = custom_jvp_jaxpr(equation, active)
    refuse_escaped(jvp.closed.consts)
    return walk_jvp(engine, equation, jvp, active, wanted)


def walk_jvp(engine, equation, jvp, active, wanted):
    """An equation's forward and backward by a walk over its JVP (a `CustomJvp`), at tangents of zero."""
    engine = engine.walking_a_jvp()
    count, total = len(equation.outvars), len(jvp.closed.jaxpr.outvars)
    primals = len(active) - jvp.consts
    inactive = (False,) * primals
    closed = at_zero_tangents(jvp.closed, (*inactive, *(True for _ in jvp.tangents)))
    jvp_active = (*inactive, *(active[i] for i in jvp.tangents))
    jvp_wanted = tuple(_at_positions(jvp.tangents_out, wanted, total, False))
    plan = engine.new_plan(closed, jvp_active, jvp_wanted, returned=count)

    def forward(*operands):
        tangents = [zero_tangent(aval_of(operands[i])) for i in jvp.tangents]
        return engine.forward(plan, [*operands[jvp.consts :], *tangents])

    def backward(residuals, cotangents):
        cts = _at_positions(jvp.tangents_out, cotangents, total, None)
        _, found = split(engine.backward(plan, residuals, cts), primals)
        return _at_positions(jvp.tangents, found, len(active), None)

    has_cotangent = tuple(_at_positions(jvp.tangents, plan.has_cotangent[primals:], len(active), False))
    # Even if no operand has one, the outputs must be the JVP's own, as in JAX: higher derivatives go through these.
    return Structured(forward, backward, has_cotangent if any(has_cotangent) else active)


def _at_positions(positions, values, count, default):
    """A list of `count` entries: each value at its position (None: nowhere), the default elsewhere."""
    entries = [default] * count
    for position, value in zip(positions, values, strict=True):
        if position is not None:
            entries[position] = value
    return entries


# ---------------------------------------------------------------- custom_vjp


@structured_rule("custom_vjp_call")
def custom_vjp_vjp(engine, equation, active, wanted):
    """The user's forward and backward, whatever the derivative of the function itself is."""
    refuse_escaped(read_by_custom_vjp(equation))
    custom, outputs = custom_vjp_of_equation(equation), output_avals(equation)

    def forward(*operands):
        found, residuals = custom.forward(operands, active)
        check_outputs(equation, len(found), "the forward of a custom_vjp function")
        return found, residuals

    def backward(residuals, cotangents):
        return custom.backward(residuals, cotangents, outputs)

    return Structured(forward, backward, active)


@structured_rule("custom_lin")
def custom_lin_vjp(engine, equation, active, wanted):
    """The tangents of a custom_vjp function, where `jax.jvp` is called on one: a linear map of which only the transpose
    is known, so that nothing can evaluate it. In a user's JVP it is replaced (`at_zero_tangents`)."""
    where = source_line(equation)
    raise TypeError(f"can't apply forward-mode autodiff (jvp) to a custom_vjp function, at {where}")


# ---------------------------------------------------------------- linear_call


@structured_rule("linear_call")
def linear_call_vjp(engine, equation, active, wanted):
    """y = f(r, x), linear in x: dx is the user's transpose applied to (r, dy), itself a linear call.

    The residual arguments r get their cotangents from a walk over f."""
    call = linear_call_functions(equation)
    count = len(active) - call.count
    r_active, x_active = active[:count], active[count:]
    walked = any(r_active)
    plan = engine.plan(call.closed, (*r_active, *(False,) * call.count), wanted)

    def forward(*operands):
        outputs, residuals = engine.forward(plan, operands) if walked else (bind(equation, operands), None)
        return outputs, (operands[:count], residuals)

    def backward(saved, cotangents):
        r, residuals = saved
        dr = engine.backward(plan, residuals, cotangents)[:count] if walked else [None] * count
        if not any(x_active):
            return [*dr, *[None] * call.count]
        pairs = zip(cotangents, output_avals(equation), strict=True)
        dy = [engine.instantiate(ct, aval) for ct, aval in pairs]
        return [*dr, *jax.custom_derivatives.linear_call(call.transpose, call.function, r, dy)]

    return Structured(forward, backward, (*plan.has_cotangent[:count], *x_active))
