"""cond, switch and platform_dependent.

forward     (1)  y = f_i(x)              i and x are saved
backward    (1)  dx = f_iᵀ(dy): a switch on the same i, whose branches compute what they need again from x
"""

from functools import lru_cache

from ...backprop.memory import save_policy
from ...backprop.registry import MissingRule, Structured, structured_rule
from ...jaxprs.compat import is_for_this_platform, switch_branch
from ...jaxprs.evaluate import as_function
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
    """y = f_i(x), dx = f_iᵀ(dy): save i and x; the backward computes that branch again."""
    cond = Cond.of(equation)
    _, active = cond.split(active)
    return _cond(engine, cond, tuple(active), wanted)


@lru_cache(maxsize=4096)
def _cond(engine, cond, active, wanted):
    def plan(branch):
        return recompute(engine, branch, save_policy.save_nothing, active, wanted, prevent_cse=False)

    forward_branches, forward_platforms = cond
    if cond.platforms is not None:
        cond = _with_rules(cond, plan)
    branches = [plan(branch) for branch in cond.branches]
    has_cotangent = _any_branch(branch.has_cotangent for branch in branches)
    avals = [v.aval for v in cond.branches[0].jaxpr.invars]

    def pull_through(branch):
        """As all branches of a switch return the same, dx has arrays of zeros where only other branches need it."""

        def pull(operands, cotangents):
            found = branch.backward((operands, ()), cotangents)
            return [engine.instantiate(ct, a) for ct, a in select(zip(found, avals, strict=True), has_cotangent)]

        return pull

    functions = [as_function(branch) for branch in forward_branches]
    pullbacks = [pull_through(branch) for branch in branches]

    def forward(index, *operands):
        return switch_branch(index, functions, forward_platforms, *operands), (index, operands)  # (1)

    def backward(residuals, cotangents):
        index, operands = residuals
        found = switch_branch(index, pullbacks, cond.platforms, operands, tuple(cotangents))  # (1)
        return [None, *merge(has_cotangent, found)]

    return Structured(forward, backward, (False, *has_cotangent))
