"""remat (`jax.checkpoint`), and the optimization barrier that keeps recomputation apart from the forward.

    forward     (1)  y, s = f(x)             s: the values that the policy saves
    backward    (1)  the rest of f, computed again from x and s; then dx = fᵀ(dy)

`recompute` builds this for any jaxpr and any choice of s. cond, and jit under a budget, use it too.
"""

from dataclasses import replace

from ...backprop.memory import recompute_barrier, residual_report, residuals, save_policy
from ...backprop.registry import Structured, structured_rule, vjp_rule
from ...jaxprs.avals import optimization_barrier
from ...jaxprs.compat import call_params
from ...jaxprs.graph import producers
from ...jaxprs.lists import merge, partition, present, select, split
from ...jaxprs.primitives import Trait, has
from ...jaxprs.views import Call
from .call import call_activity, in_scope


@structured_rule("remat2", activity=call_activity)
def remat_vjp(engine, equation, active, wanted):
    """Save the operands and what the policy names; the backward computes the rest again."""
    params = call_params(equation)
    policy, prevent_cse = params["policy"], params.get("prevent_cse", True)
    choose = save_policy.save_nothing if policy is None else save_policy.choose_by_policy(policy)
    engine = replace(engine, policy=policy)
    inner = recompute(engine, Call.of(equation).body, choose, active, wanted, prevent_cse)
    return in_scope("checkpoint", inner)  # as JAX names it in profiles


def recompute(engine, closed, choose, active, wanted, prevent_cse):
    """Forward and backward of a jaxpr, where the backward starts from the operands and from what `choose` saves.

    prevent_cse: whether a compiler might otherwise merge the recomputation with the forward (by common subexpression
        elimination), and so keep in memory what was not to be saved; or a flag for each operand: whether what is
        computed from it might be.
    """
    joint, parts = _forward_and_backward(engine.inlining(), closed, choose, active, wanted)
    has_cotangent = [ct is not None for ct in joint.found]
    found = present(joint.found)
    recomputed = parts.recomputed
    guarded = prevent_cse if isinstance(prevent_cse, tuple) else (prevent_cse,) * len(active)

    def forward(*operands):
        known = zip(joint.operands, operands, strict=True)
        out, kept = parts.run_forward(known, [*joint.outputs, *parts.saved])
        outputs, saved = split(out, len(joint.outputs))
        return outputs, (operands, (tuple(saved), kept))

    def pull(operands, saved, cts):
        saved, kept = saved
        known = zip((*joint.operands, *parts.saved, *joint.cotangents), (*operands, *saved, *cts), strict=True)
        return parts.run_backward(known, kept, found)

    def backward(residuals, cotangents):
        operands, saved = residuals
        pairs = select(zip(cotangents, joint.outputs, strict=True), wanted)
        cts = [engine.instantiate(ct, atom.aval) for ct, atom in pairs]
        if not (recomputed and any(guarded)):
            return merge(has_cotangent, pull(operands, saved, cts))
        behind, others = partition(operands, guarded)

        def pull_behind(known, cts):
            behind, saved = known
            return pull(merge(guarded, behind, others), saved, cts)

        if engine.inline:  # within a loop, or within a region that is itself behind such a barrier
            out = pull_behind(*optimization_barrier(((behind, saved), cts)))
        else:
            out = recompute_barrier.behind_barrier(pull_behind, [atom.aval for atom in found], (behind, saved), cts)
        return merge(has_cotangent, out)

    def describe(where):
        producer_of = producers(joint.closed.jaxpr.eqns)
        rows = [residual_report.saved_row("saved", v, 1, producer_of, "the policy or the budget") for v in parts.saved]
        return rows + residual_report.recomputed_rows(recomputed, where)

    flags = tuple(a and on for a, on in zip(active, has_cotangent, strict=True))
    return Structured(forward, backward, flags, describe)


def _forward_and_backward(engine, closed, choose, active, wanted):
    plan = engine.plan(closed, active, wanted)
    joint = residuals.trace_joint(engine, plan, wanted)
    loops = [v for e in joint.closed.jaxpr.eqns if has(e, Trait.NEVER_RECOMPUTED) for v in e.outvars]
    # loops have budgets of their own
    return joint, residuals.split(joint, joint.operands, (), choose, stored=loops, policy=engine.policy)


@vjp_rule("optimization_barrier", "*xs -> *ys")
def optimization_barrier_vjp(dys):
    """The identity; the cotangents pass a barrier of their own."""
    return optimization_barrier(dys)
