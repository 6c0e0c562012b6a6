"""Forward-mode derivatives through our reverse mode, of the primitives whose JVP JAX lacks or has wrong.

`jax.jvp` of a gradient differentiates what our forward pass evaluates. Where that is such a primitive (`Trait.JVP`), it
is evaluated as a `custom_jvp` function whose derivative is made of the primitive's rule: the pullback P is linear in
the cotangents, and the derivative J its transpose, which our backward walk over P gives: J·t = Pᵀ(t).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from ..jaxprs.avals import as_jax_array, aval_of, cotangent_aval, is_inexact, zero_tangent, zeros_like_aval
from ..jaxprs.evaluate import bind_flat, trace_avals, trace_call
from ..jaxprs.lists import merge, select
from ..jaxprs.primitives import Trait, has
from ..jaxprs.types import Equation, Primitive


def is_wrong_in_jax(equation: Equation, active: Sequence[bool]) -> bool:
    """Whether JAX's JVP of an equation with respect to these operands is missing or wrong."""
    match equation.primitive.name:
        case "clamp":  # with respect to its bounds
            return active[0] or active[2]
        case "regularized_incomplete_beta":  # with respect to its parameters
            return active[0] or active[1]
        case "qr":  # of a tall matrix, where the columns that complete Q jump with it
            rows, columns = equation.invars[0].aval.shape[-2:]
            return equation.params["full_matrices"] and rows > columns
        case "max" | "min":  # of complex numbers, in JAX 0.12
            return np.issubdtype(equation.outvars[0].aval.dtype, np.complexfloating)
    return has(equation, Trait.JVP)


def bind_with_jvp(engine: Any, primitive: Primitive, params: dict[str, Any], operands: Sequence[Any]) -> list[Any]:
    """The outputs of a primitive, as a function whose JVP is made of its rule."""

    @jax.custom_jvp
    def jvp_by_rules(*operands):
        return bind_flat(primitive, params, operands)

    jvp_by_rules.defjvp(partial(_jvp, engine, primitive, params))
    return list(jvp_by_rules(*operands))


def is_made_of_rules(equation: Equation) -> bool:
    """Whether a `custom_jvp_call` is one of `bind_with_jvp`: its own rule says the same as its JVP, and more simply."""
    return equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info.startswith(f"jvp_by_rules at {__file__}")


def _jvp(
    engine: Any, primitive: Primitive, params: dict[str, Any], operands: Sequence[Any], tangents: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    operands, tangents = (list(map(as_jax_array, values)) for values in (operands, tangents))
    closed, _ = trace_call(primitive, params, operands)
    active = [is_inexact(aval_of(x)) for x in operands]
    avals = [v.aval for v in closed.jaxpr.outvars]
    wanted = [is_inexact(aval) for aval in avals]
    plan = engine.new_plan(closed, active, wanted)
    outputs, residuals = engine.forward(plan, operands)

    def pullback(*cotangents):
        found = engine.backward(plan, residuals, merge(wanted, cotangents))
        pairs = zip(select(found, active), select(operands, active), strict=True)
        return [engine.instantiate(ct, aval_of(x)) for ct, x in pairs]

    cotangent_avals = list(map(cotangent_aval, select(avals, wanted)))
    linear = trace_avals(pullback, cotangent_avals)
    engine = engine.walking_a_jvp()
    plan_back = engine.new_plan(linear, [True] * sum(wanted), [True] * sum(active))
    _, saved = engine.forward(plan_back, [zeros_like_aval(aval) for aval in cotangent_avals])
    found = engine.backward(plan_back, saved, select(tangents, active))
    pairs = zip(merge(wanted, found), avals, strict=True)
    return outputs, [zero_tangent(aval) if t is None else t for t, aval in pairs]
