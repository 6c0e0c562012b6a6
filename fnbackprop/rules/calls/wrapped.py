"""Functions that a user wrapped for another purpose than a derivative: batching, partitioning, tags, transposition."""

import jax

from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import output_avals
from ...jaxprs.custom import linear_call_functions
from ...jaxprs.evaluate import bind
from ...jaxprs.types import close_jaxpr
from .calls import walk_inline

# The parameter that holds the function, by primitive; JAX 0.10.2 and 0.12 differ in composite's.
JAXPR_NAMES = ("jaxpr", "call_jaxpr", "call", "fwd_jaxpr")


def wrapped_function(equation):
    """The closed jaxpr of the wrapped function."""
    return close_jaxpr(next(equation.params[name] for name in JAXPR_NAMES if name in equation.params))


def wrapped_activity(engine, equation, active):
    """The outputs that depend on active operands, by the wrapped function."""
    return engine.active_outputs(wrapped_function(equation), active)


@structured_rule("composite", "custom_partitioning", "xla_metadata_call", "remat_opt", activity=wrapped_activity)
def wrapped_vjp(engine, equation, active, wanted):
    """Walk the wrapped function: a composite is its decomposition; partitioning and metadata are left to the compiler.

    remat_opt is a custom_vjp's forward (optimize_remat=True), met when that forward is differentiated again.
    """
    return walk_inline(engine, wrapped_function(equation), active, wanted)


@structured_rule("custom_vmap_call", activity=wrapped_activity)
def custom_vmap_vjp(engine, equation, active, wanted):
    """The forward calls the original, so that vmap finds the user's batching; the backward walks the function again."""
    plan = engine.plan(wrapped_function(equation), active, wanted)

    def forward(*operands):
        return bind(equation, operands), operands

    def backward(operands, cotangents):
        _, residuals = engine.forward(plan, operands)
        return engine.backward(plan, residuals, cotangents)

    return Structured(forward, backward, plan.has_cotangent)


@structured_rule("linear_call")
def linear_call_vjp(engine, equation, active, wanted):
    """y = f(r, x), linear in x: dx is the user's transpose applied to (r, dy), itself a linear call.

    The residual arguments r get their cotangents by a walk over f.
    """
    call = linear_call_functions(equation)
    held = len(active) - call.count
    walked = any(active[:held])
    plan = engine.plan(call.closed, (*active[:held], *(False,) * call.count), wanted)

    def forward(*operands):
        outputs, residuals = engine.forward(plan, operands) if walked else (bind(equation, operands), None)
        return outputs, (operands[:held], residuals)

    def backward(saved, cotangents):
        known, residuals = saved
        found = engine.backward(plan, residuals, cotangents)[:held] if walked else [None] * held
        if not any(active[held:]):
            return [*found, *[None] * call.count]
        pairs = zip(cotangents, output_avals(equation), strict=True)
        cts = [engine.instantiate(ct, aval) for ct, aval in pairs]
        return [*found, *jax.custom_derivatives.linear_call(call.transpose, call.function, known, cts)]

    return Structured(forward, backward, (*plan.has_cotangent[:held], *active[held:]))
