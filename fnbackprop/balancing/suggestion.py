"""The learning rate to take instead, and why."""

from typing import NamedTuple

from .branches import FACTORS, FURTHEST, Branch, all_same, best_of, is_better
from .estimates import Estimate
from .facts import Facts
from .verdict import FINE, Judgement, Verdict

STEP = 2.0  # of branches: a rate between two of them is not told from either


class Suggestion(NamedTuple):
    """A multiple of the learning rate.

    Attributes:
      multiplier: the best rate that was tried, with the interval of those that did no worse.
      warm_up: whether to start lower and rise to it.
      sentence: why.
    """

    multiplier: Estimate
    warm_up: bool
    sentence: str


def suggest(facts: Facts, judgement: Judgement) -> Suggestion | None:
    """What to do; None if nothing can be said, for which `why_none` gives the reason.

    Of the rates that were tried and are stable, the one that ended lowest; the present one, if none is better by more
    than chance, or the verdict on it is good.
    """
    here, start = facts.branch(1.0), facts.start
    if here is None or why_none(facts, judgement):
        return None
    falling = [b for b in facts.branches if b.is_finite and b.end <= start.high]
    best = best_of(falling)
    if best is None:
        return _lower(facts)
    is_fine = judgement.verdict in FINE or not is_better(best, here, start.value)
    faster = best if is_fine and best.factor > 1 and is_better(best, here, start.value) else None
    if here in falling and is_fine:
        best = here
    equal = [b.factor for b in falling if not is_better(best, b, start.value)]
    interval = Estimate(best.factor, min([*equal, best.factor]) / STEP**0.5, max([*equal, best.factor]) * STEP**0.5)
    warm_up = judgement.verdict is Verdict.CATAPULT or _above_critical(facts, best)
    return Suggestion(interval, warm_up, _sentence(facts, best, here, faster, warm_up))


def why_none(facts: Facts, judgement: Judgement) -> str:
    """Why no rate is suggested; empty if one is."""
    here = facts.branch(1.0)
    if judgement.verdict is Verdict.CANNOT_JUDGE:
        return "there is nothing to go by"
    if here is None:
        return "no steps were taken at any rate"
    if all_same([branch for branch in facts.branches if branch.factor in FACTORS]):
        return "the losses are the same at every rate near it"
    best = best_of([b for b in facts.branches if b.is_finite and b.end <= facts.start.high])
    if judgement.verdict is Verdict.UNDECIDED and (best is None or not is_better(best, here, facts.start.value)):
        return "the signals disagree, and no rate that was tried does clearly better"
    return ""


def _lower(facts: Facts) -> Suggestion | None:
    """Nothing that was tried falls: half the critical rate, or an eighth of the rate."""
    if facts.ratio is not None and facts.ratio.value > 0:
        factor = max(min(0.5 / facts.ratio.value, 0.125), 1 / FURTHEST)
    else:
        factor = 0.125
    sentence = "at no rate that was tried does the loss fall: begin below all of them"
    return Suggestion(Estimate(factor, 0.0, 2 * factor), True, sentence)


def _above_critical(facts: Facts, branch: Branch) -> bool:
    return facts.step == 0 and facts.ratio is not None and facts.ratio.value * branch.factor > 1.1


def _sentence(facts: Facts, best: Branch, here: Branch, faster: Branch | None, warm_up: bool) -> str:
    ends = f"after {len(best.losses)} steps the loss is {best.end:.3g}"
    if best is not here:
        ends += f" instead of {here.end:.3g}" if here.is_finite else ", and at the present rate it is not finite"
    if best is here:
        better = "" if faster is None else f"; {faster.factor:.2g} times the rate is faster, at first at least"
        ends += better or "; no rate that was tried does clearly better"
    if facts.ratio is not None and facts.ratio.value > 0:
        ends += f". It is {facts.ratio.value * best.factor:.2g} of the critical rate"
    return ends + (", so warm up to it" if warm_up else "")
