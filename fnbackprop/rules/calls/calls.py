"""Primitives that hold a function: jit, custom_jvp, custom_vjp, remat, cond.

Each builds, before anything runs, a forward that returns the residuals and a backward that reads them, by handing
its inner jaxprs to the engine.
"""

from dataclasses import dataclass
from functools import lru_cache

import jax

from ...backprop.memory import recompute_barrier, residual_report, residuals, save_policy
from ...backprop.registry import Structured, structured_rule, vjp_rule
from ...jaxprs.avals import optimization_barrier, output_avals, zeros_like_aval
from ...jaxprs.compat import branch_platforms, jit_shardings, switch_branch
from ...jaxprs.custom import absent, custom_jvp_jaxpr, custom_linear_map, custom_vjp_functions, zero_tangent
from ...jaxprs.evaluate import as_function, source_line
from ...jaxprs.primitives import Trait, has
from ...jaxprs.types import close_jaxpr

INLINED_EQUATIONS = 4  # a smaller jit is walked in place: wrapping it costs more tracing than it saves


def inner_activity(engine, equation, active):
    """The outputs that depend on active operands, by the inner jaxpr."""
    return engine.active_outputs(_closed(equation), active)


def _closed(equation):
    params = equation.params
    return close_jaxpr(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"])


@structured_rule("jit", "closed_call", "call", "eval_jaxpr", activity=inner_activity)
def jit_vjp(engine, equation, active, wanted):
    """Walk the inner jaxpr; forward and backward are jitted under its name, traced once for all equal calls.

    What the user's jit says of where operands and outputs lie holds for their cotangents too. With a budget, what is
    saved of a jit that holds products or loops is chosen, as for a loop's body."""
    closed, shardings = _closed(equation), jit_shardings(equation)
    name = equation.params.get("name", "call")
    if engine.inline or equation.primitive.name != "jit" or len(closed.jaxpr.eqns) <= INLINED_EQUATIONS:
        return _placed(walk_inline(engine, closed, active, wanted), *shardings)
    budgeted = engine.budget is not None and not save_policy.is_cheap(equation)
    return _jitted(engine, closed, active, wanted, name, shardings, budgeted)


@lru_cache(maxsize=4096)
def walk_inline(engine, closed, active, wanted):
    """Forward and backward of a closed jaxpr, emitted where it is called."""
    plan = engine.plan(closed, active, wanted)

    def forward(*operands):
        return engine.forward(plan, operands)

    def backward(residuals, cotangents):
        return engine.backward(plan, residuals, cotangents)

    return Structured(forward, backward, plan.has_cotangent)


@lru_cache(maxsize=4096)
def _jitted(engine, closed, active, wanted, name, shardings, budgeted):
    if budgeted:
        inner = _recomputed(engine, closed, save_policy.choose_within(engine.budget, 1), True, active, wanted)
    else:
        inner = walk_inline(engine, closed, active, wanted)
    inner = _placed(inner, *shardings)

    def forward(*operands):
        return inner.forward(*operands)

    def backward(residuals, cotangents):
        return inner.backward(residuals, cotangents)

    forward.__name__ = name
    backward.__name__ = f"{name}_vjp"
    return inner._replace(forward=jax.jit(forward), backward=jax.jit(backward))


def _placed(inner, ins, outs):
    """With operands and outputs, and their cotangents, laid out by these shardings (None: the compiler's choice)."""
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


@structured_rule("custom_jvp_call")
def custom_jvp_vjp(engine, equation, active, wanted):
    """The user's JVP is linear in the tangents; its transpose is our walk over it with the tangents as inputs.

    outputs, tangents_out = jvp(x, t) is walked at t = 0; the cotangent of t is then the cotangent of x. The function
    itself is not asked what depends on x: `round`, which does not, may have a derivative by the user's word.
    """
    return walk_jvp(engine, equation, custom_jvp_jaxpr(equation, active), active, wanted)


def walk_jvp(engine, equation, jvp, active, wanted):
    """An equation's forward and backward by a walk over its JVP (a `CustomJvp`), at tangents of zero."""
    engine = engine.walking_at_zero()
    count, total = len(equation.outvars), len(jvp.closed.jaxpr.outvars)
    primals = len(active) - jvp.consts
    flags = (*(False,) * primals, *(active[i] for i in jvp.tangents))
    wants = [False] * total
    for i, on in zip(jvp.tangents_out, wanted, strict=True):
        if i is not None:
            wants[i] = on
    plan = engine.new_plan(jvp.closed, flags, tuple(wants), returned=count)

    def forward(*operands):
        tangents = [zero_tangent(operands[i]) for i in jvp.tangents]
        return engine.forward(plan, [*operands[jvp.consts :], *tangents])

    def backward(residuals, cotangents):
        cts = [None] * total
        for i, ct in zip(jvp.tangents_out, cotangents, strict=True):
            if i is not None:
                cts[i] = ct
        return by_operand(engine.backward(plan, residuals, cts)[primals:], None)

    def by_operand(values, otherwise):
        """The values of the operands that have a tangent, each at its position."""
        values = dict(zip(jvp.tangents, values, strict=True))
        return [values.get(i, otherwise) for i in range(len(active))]

    has_cotangent = tuple(by_operand(plan.has_cotangent[primals:], False))
    # If no operand is, the outputs are still the JVP's own, as in JAX: a further derivative goes through these.
    return Structured(forward, backward, has_cotangent if any(has_cotangent) else active)


@structured_rule("custom_vjp_call")
def custom_vjp_vjp(engine, equation, active, wanted):
    """The user's own forward and backward take the place of the walk, whatever the function itself depends on."""
    custom = custom_vjp_functions(equation)
    symbolic, outputs = equation.params["symbolic_zeros"], output_avals(equation)

    def forward(*operands):
        residuals, values = custom.forward(operands, active)
        return values, tuple(Static(r) if isinstance(r, bool | int | float | complex) else r for r in residuals)

    def backward(residuals, cotangents):
        pairs = zip(cotangents, outputs, strict=True)
        cts = [absent(symbolic, aval) if ct is None else ct for ct, aval in pairs]
        return custom.backward([r.value if isinstance(r, Static) else r for r in residuals], cts)

    return Structured(forward, backward, active)


@structured_rule("custom_lin")
def custom_lin_vjp(engine, equation, active, wanted):
    """The tangents of a custom_vjp function, where a user's JVP calls `jax.jvp` on one: a linear map that is known by
    its transpose alone. So its value is known at tangents of zero alone, where `custom_jvp_vjp` walks."""
    if not engine.at_zero:
        where = source_line(equation)
        raise TypeError(f"can't apply forward-mode autodiff (jvp) to a custom_vjp function, at {where}")
    custom = custom_linear_map(equation)

    def forward(*operands):
        return [zeros_like_aval(aval) for aval in output_avals(equation)], operands[: custom.residuals]

    def backward(residuals, cotangents):
        pairs = zip(cotangents, output_avals(equation), strict=True)
        cts = [absent(custom.symbolic, aval) if ct is None else ct for ct, aval in pairs]
        return [*[None] * custom.residuals, *custom.backward(residuals, cts)]

    has_cotangent = tuple(on and i >= custom.residuals for i, on in enumerate(active))
    return Structured(forward, backward, has_cotangent)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """A Python number among a user's residuals: it stays one across jit, for the backward may branch on it."""

    value: bool | int | float | complex


@structured_rule("remat2", activity=inner_activity)
def remat_vjp(engine, equation, active, wanted):
    """Save the operands and what the policy names; the backward computes the rest again, behind a barrier."""
    policy = equation.params["policy"]
    choose = save_policy.save_nothing if policy is None else save_policy.choose_by_policy(policy)
    return _recomputed(engine, _closed(equation), choose, equation.params["prevent_cse"], active, wanted)


def _recomputed(engine, closed, choose, barrier, active, wanted):
    """A region whose backward starts from its operands and what `choose` saves.

    barrier: whether a compiler might merge what is computed again with the forward, and must be kept from it."""
    parts = _recomputed_parts(engine.inlining(), closed, choose, active, wanted)
    joint, split = parts
    present = [ct is not None for ct in joint.found]
    cotangent_atoms = [ct for ct in joint.found if ct is not None]
    again = split.again

    def forward(*operands):
        out = split.run(split.forward, zip(joint.operands, operands, strict=True), [*joint.outputs, *split.saved])
        count = len(joint.outputs)
        return out[:count], (operands, tuple(out[count:]))

    def pulled(residual, cts):
        operands, saved = residual
        pairs = zip((*joint.operands, *split.saved, *joint.cotangents), (*operands, *saved, *cts), strict=True)
        return split.run(split.backward, pairs, cotangent_atoms)

    def backward(residual, cotangents):
        triples = zip(cotangents, joint.outputs, wanted, strict=True)
        cts = [engine.instantiate(ct, v.aval) for ct, v, on in triples if on]
        if not (barrier and again):
            found = iter(pulled(residual, cts))
        elif engine.inline:  # what is around is a loop, or itself apart from the forward
            found = iter(pulled(*optimization_barrier((residual, cts))))
        else:
            found = iter(
                recompute_barrier.computed_apart(pulled, [atom.aval for atom in cotangent_atoms], residual, cts)
            )
        return [next(found) if on else None for on in present]

    def describe(where):
        producers = {v: e for e in joint.closed.jaxpr.eqns for v in e.outvars}
        rows = [residual_report.saved_row("saved", v, 1, producers, "the policy or the budget") for v in split.saved]
        return rows + residual_report.again_rows(again, where)

    return Structured(forward, backward, tuple(a and on for a, on in zip(active, present, strict=True)), describe)


def _recomputed_parts(engine, closed, choose, active, wanted):
    plan = engine.plan(closed, active, wanted)
    joint = residuals.trace_joint(engine, plan, wanted, [False] * len(active))
    loops = [v for e in joint.closed.jaxpr.eqns if has(e, Trait.NEVER_RECOMPUTED) for v in e.outvars]
    return joint, residuals.split(joint, joint.operands, (), choose, held=loops)  # loops have budgets of their own


def cond_activity(engine, equation, active):
    """An output is active if any branch makes it so; the index never is."""
    branches = [engine.active_outputs(branch, active[1:]) for branch in equation.params["branches"]]
    return tuple(map(any, zip(*branches, strict=True)))


@structured_rule("cond", activity=cond_activity)
def cond_vjp(engine, equation, active, wanted):
    """Save the index and the operands; backward switches on the same index and computes that branch again."""
    platforms = branch_platforms(equation)
    return _cond(engine, tuple(equation.params["branches"]), platforms, active[1:], wanted)


@lru_cache(maxsize=4096)
def _cond(engine, closed_branches, platforms, active, wanted):
    branches = [
        _recomputed(engine, closed, save_policy.save_nothing, False, active, wanted) for closed in closed_branches
    ]
    has_cotangent = tuple(map(any, zip(*(branch.has_cotangent for branch in branches), strict=True)))
    avals = [v.aval for v in closed_branches[0].jaxpr.invars]

    def pull(branch):
        def pulled(operands, cotangents):
            found = branch.backward((operands, ()), cotangents)
            return [engine.instantiate(ct, a) for ct, a, on in zip(found, avals, has_cotangent, strict=True) if on]

        return pulled

    forwards = [as_function(closed) for closed in closed_branches]
    pulls = [pull(branch) for branch in branches]

    def forward(index, *operands):
        return switch_branch(index, forwards, platforms, *operands), (index, operands)

    def backward(residual, cotangents):
        index, operands = residual
        found = iter(switch_branch(index, pulls, platforms, operands, tuple(cotangents)))
        return [None, *(next(found) if on else None for on in has_cotangent)]

    return Structured(forward, backward, (False, *has_cotangent))


@vjp_rule("optimization_barrier", "*xs -> *ys")
def optimization_barrier_vjp(dys):
    """The identity; its cotangents pass a barrier of their own."""
    return optimization_barrier(dys)
