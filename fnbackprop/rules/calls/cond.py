"""cond, switch and platform_dependent.

forward     (1)  y, s = f_i(x)           s: what of f_i is costly to compute again, or what a checkpoint's policy saves
backward    (1)  dx = f_iᵀ(dy): a switch on the same i, whose branches compute what they need again from x and s
"""

from dataclasses import replace

import jax

from ...backprop.memory import save_policy
from ...backprop.memory.shared_slots import SharedSlots
from ...backprop.missing_rule import MissingRule
from ...backprop.planning_notes import cached_plan
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.compat import is_for_this_platform, switch_branch
from ...jaxprs.evaluate import trace_flat
from ...jaxprs.lists import merge, select
from ...jaxprs.views import Cond
from .remat import recompute


def cond_activity(engine, equation, active):
    """An output is active if any branch makes it so; the index is never active."""
    cond = Cond.of(equation)
    _, active = cond.split(active)
    return _any_branch(engine.active_outputs(branch, tuple(active)) for branch in cond.branches)


def _any_branch(flags):
    """Of one list of flags for each branch, the flags that are set in any."""
    return tuple(map(any, zip(*flags, strict=True)))


def _with_rules(cond, plan):
    """The branches of `platform_dependent` without those that lack a rule and are for other platforms than this one's
    (a kernel of Pallas, say): the backward is then for the remaining platforms only."""
    kept = []
    for branch, names in zip(cond.branches, cond.platforms, strict=True):
        try:
            plan(branch)
        except MissingRule:
            if is_for_this_platform(names, cond.platforms):
                raise
        else:
            kept.append((branch, names))
    return Cond(*zip(*kept, strict=True))


@structured_rule("cond", activity=cond_activity)
def cond_vjp(engine, equation, active, wanted):
    """y = f_i(x), dx = f_iᵀ(dy): save i, x and what of f_i is costly; the backward computes the rest again."""
    cond = Cond.of(equation)
    _, active = cond.split(active)
    return _cond(engine, cond, tuple(active), wanted)


@cached_plan
def _cond(engine, cond, active, wanted):
    policy = engine.policy if cond.platforms is None else None
    choose = _chooser(cond, policy)
    engine = replace(engine, policy=policy)

    def plan(branch):
        return recompute(engine, branch, choose, active, wanted, prevent_cse=False)

    forward_branches, forward_platforms = cond
    if cond.platforms is not None:
        cond = _with_rules(cond, plan)
    branches = [plan(branch) for branch in cond.branches]
    has_cotangent = _any_branch(branch.has_cotangent for branch in branches)
    avals = [v.aval for v in cond.branches[0].jaxpr.invars]
    if choose is save_policy.save_nothing:
        functions, saved_by = (
            [_saving_nothing(engine, branch) for branch in forward_branches],
            [_no_saved] * len(branches),
        )
    else:
        functions, saved_by = _saving(branches, avals)

    def pull_through(branch, own):
        """As all branches of a switch return the same, dx has arrays of zeros where only other branches need it."""

        def pull(operands, saved, cotangents):
            found = branch.backward((operands, own(saved)), cotangents)
            return [engine.instantiate(ct, a) for ct, a in select(zip(found, avals, strict=True), has_cotangent)]

        return pull

    pullbacks = list(map(pull_through, branches, saved_by))

    def forward(index, *operands):
        outputs, saved = switch_branch(index, functions, forward_platforms, *operands)  # (1)
        return outputs, (index, operands, saved)

    def backward(residuals, cotangents):
        index, operands, saved = residuals
        found = switch_branch(index, pullbacks, cond.platforms, operands, saved, tuple(cotangents))  # (1)
        return [None, *merge(has_cotangent, found)]

    return Structured(forward, backward, (False, *has_cotangent))


def _no_saved(saved):
    return (), ()


def _saving_nothing(engine, branch):
    function = engine.primal(branch)
    return lambda *operands: (function(*operands), [])


def _chooser(cond, policy):
    """What a branch saves: where nothing in any of them is costly, nothing but its operands."""
    if policy is not None:
        return save_policy.choose_by_policy(policy)
    equations = [e for branch in cond.branches for e in branch.jaxpr.eqns]
    if cond.platforms is not None or all(map(save_policy.is_cheap, equations)):
        return save_policy.save_nothing
    return save_policy.choose_saved


def _saving(branches, avals):
    """The branches' forwards, each of which returns the values that it saves, in slots that all share; and for each
    branch a function that finds its own in these."""
    traced = [trace_flat(lambda *operands, run=branch.forward: run(*operands)[1][1], avals) for branch in branches]
    shared = SharedSlots.of([[(atom.aval, ()) for atom in saved.closed.jaxpr.outvars] for saved in traced])

    def forward_of(i):
        def forward(*operands):
            outputs, (_, saved) = branches[i].forward(*operands)
            return outputs, shared.fill(i, jax.tree.leaves(saved))

        return forward

    def own(i):
        return lambda saved: traced[i].out_tree.unflatten(shared.own(i, saved))

    each = range(len(branches))
    return list(map(forward_of, each)), list(map(own, each))
