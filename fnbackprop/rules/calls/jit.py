"""jit: forward and backward are jitted themselves, under the user's name, with the shardings of the user's jit."""

import jax

from ...backprop.memory import save_policy
from ...backprop.planning_notes import cached_plan
from ...backprop.registry import structured_rule
from ...jaxprs.compat import jit_shardings
from ...jaxprs.views import Call
from .call import call_activity, in_scope, walk_inline
from .known_functions import function_vjp
from .remat import recompute

INLINED_EQUATIONS = 4  # a smaller jit is inlined: a wrapper would cost more tracing time than it saves


@structured_rule("jit", activity=call_activity)
def jit_vjp(engine, equation, active, wanted):
    """y = f(x), dx = fᵀ(dy): both are jitted, and traced once for all equal calls.

    The shardings of x and y hold for dx and dy too. Under a budget, a jit that holds products or loops saves only what
    the budget allows, as a loop's body does."""
    if (known := function_vjp(engine, equation, active, wanted)) is not None:
        return known
    call, shardings = Call.of(equation), jit_shardings(equation)
    if engine.inline or len(call.body.jaxpr.eqns) <= INLINED_EQUATIONS:
        walked = walk_inline(engine, call.body, active, wanted)
        return _with_shardings(in_scope(f"jit({call.name})", walked), *shardings)
    budgeted = engine.budget is not None and not save_policy.is_cheap(equation)
    return _jitted(engine, call, active, wanted, shardings, budgeted)


@cached_plan
def _jitted(engine, call, active, wanted, shardings, budgeted):
    if budgeted:
        choose = save_policy.choose_within(engine.budget, 1)
        inner = recompute(engine, call.body, choose, active, wanted, prevent_cse=True)
    else:
        inner = walk_inline(engine, call.body, active, wanted)
    inner = _with_shardings(inner, *shardings)

    def forward(*operands):
        return inner.forward(*operands)

    def backward(residuals, cotangents):
        return inner.backward(residuals, cotangents)

    forward.__name__ = call.name
    backward.__name__ = f"{call.name}_vjp"
    return inner._replace(forward=jax.jit(forward), backward=jax.jit(backward))


def _with_shardings(inner, ins, outs):
    """The same with these shardings (None: any) for operands and outputs, and for their cotangents."""
    if not any((*ins, *outs)):
        return inner

    def forward(*operands):
        outputs, saved = inner.forward(*_constrained(operands, ins))
        return _constrained(outputs, outs), saved

    def backward(saved, cotangents):
        return _constrained(inner.backward(saved, _constrained(cotangents, outs)), ins)

    return inner._replace(forward=forward, backward=backward)


def _constrained(xs, shardings):
    pairs = zip(xs, shardings, strict=True)
    return [x if x is None or s is None else jax.lax.with_sharding_constraint(x, s) for x, s in pairs]
