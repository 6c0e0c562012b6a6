"""From facts to a verdict and the sentence that says why."""

import enum
from typing import NamedTuple

from .branches import FACTORS, Branch, all_same, best_of, is_better
from .facts import Facts


class Verdict(enum.StrEnum):
    """How the learning rate and the size of the gradient are balanced.

    DIVERGING, OVERSHOOTING: the rate is too high. CATAPULT: the loss likely rises first, and comes down in a flatter
    place: warm up. AT_THE_EDGE: the rate is about the critical one, as it comes to be by itself in training on full
    batches. BALANCED: no rate near it does better. TOO_LOW: a higher rate is stable, and faster. NOISE_LIMITED: the
    noise of small batches decides how fast it goes: a lower rate and a larger batch are the same to first order.
    UNDECIDED: the signals disagree. CANNOT_JUDGE: the gradient is wrong, or the loss is no function.
    """

    DIVERGING = "TOO HIGH: diverging"
    OVERSHOOTING = "TOO HIGH: overshooting"
    CATAPULT = "CATAPULT"
    AT_THE_EDGE = "BALANCED, at the edge"
    BALANCED = "BALANCED"
    TOO_LOW = "TOO LOW"
    NOISE_LIMITED = "NOISE-LIMITED"
    UNDECIDED = "UNDECIDED"
    CANNOT_JUDGE = "CANNOT JUDGE"


FINE = (Verdict.BALANCED, Verdict.AT_THE_EDGE, Verdict.NOISE_LIMITED)
HIGH_OVERSHOOT, LOW_OVERSHOOT = 1.0, -0.8
MUCH = 0.5  # of the fall of the loss at a lower rate: falling by less is much worse
LOW_RATIO, EDGE, CATAPULT = 0.1, (0.9, 1.1), 2.0
VERY_LOW_RATIO = 0.02
RISE = 0.1  # of the first loss
SMALL_BATCH = 0.1  # of the noise scale


class Judgement(NamedTuple):
    """A verdict and why."""

    verdict: Verdict
    sentence: str


def judge(facts: Facts) -> Judgement:
    """The verdict on these facts."""
    if facts.refusal:
        return Judgement(Verdict.CANNOT_JUDGE, f"{facts.refusal.rstrip('.')}.")
    here = facts.branch(1.0)
    if here is None:
        return _without_branches(facts)
    for rule in (_unmoved, _diverging, _overshooting, _catapult, _at_the_edge, _too_low, _noise_limited, _balanced):
        found = rule(facts, here)
        if found is not None:
            return found
    return Judgement(Verdict.UNDECIDED, f"The signals disagree: {_signals(facts, here)}.")


def _without_branches(facts: Facts) -> Judgement:
    if facts.ratio is None:
        return Judgement(Verdict.UNDECIDED, "Too little is known yet.")
    return Judgement(Verdict.UNDECIDED, f"Known so far: the rate is {facts.ratio.value:.2g} of the critical one.")


# ---------------------------------------------------------------- the rules, in order


def _unmoved(facts: Facts, here: Branch) -> Judgement | None:
    if not all_same([branch for branch in facts.branches if branch.factor in FACTORS]):
        return None
    return Judgement(
        Verdict.UNDECIDED,
        "The rate makes no difference: from a quarter to four times it the losses are the same. Updates are zero, or "
        "lost in rounding: see that the loss depends on the parameters, and that the optimizer moves them.",
    )


def _diverging(facts: Facts, here: Branch) -> Judgement | None:
    if not here.is_finite:
        return Judgement(
            Verdict.DIVERGING,
            f"The loss is not finite after {len(here.losses)} steps at this rate{_of_critical(facts)}.",
        )
    beyond = facts.ratio is None or facts.ratio.value > CATAPULT
    if beyond and here.end > facts.start.high:
        return Judgement(
            Verdict.DIVERGING,
            f"In {len(here.losses)} steps the loss rises from {facts.start.value:.3g} to {here.end:.3g}"
            f"{_of_critical(facts)}.",
        )
    return None


def _overshooting(facts: Facts, here: Branch) -> Judgement | None:
    lower = _lower_winner(facts, here)
    if lower is None:
        return None
    half, alpha = facts.branch(0.5), facts.overshoot
    uphill = alpha is not None and alpha > HIGH_OVERSHOOT and not _falls(facts, here)
    if uphill and half is not None and is_better(half, here, facts.start.value):
        return Judgement(
            Verdict.OVERSHOOTING,
            f"A step lands {alpha:.2g} times as far beyond the lowest point along it as it began, the loss "
            f"does not fall in {len(here.losses)} steps, and half the rate ends at {half.end:.3g} instead of "
            f"{here.end:.3g}{_of_critical(facts)}.",
        )
    lost = _fall(facts, here) < MUCH * _fall(facts, lower)
    if facts.ratio.value > CATAPULT if facts.ratio is not None else lost:
        return Judgement(
            Verdict.OVERSHOOTING,
            f"After {len(lower.losses)} steps this rate ends at {here.end:.3g}, and {lower.factor:.2g} times it at "
            f"{lower.end:.3g}{_of_critical(facts)}.",
        )
    return None


def _catapult(facts: Facts, here: Branch) -> Judgement | None:
    if facts.step or facts.ratio is None or not EDGE[0] <= facts.ratio.value <= CATAPULT:
        return None
    lower = _lower_winner(facts, here)
    if lower is None and not (facts.ratio.value > EDGE[1] and _rises_first(facts, here)):
        return None
    seen = "rises first" if lower is None else f"falls further at {lower.factor:.2g} times it, to {lower.end:.3g}"
    return Judgement(
        Verdict.CATAPULT,
        f"At the beginning the rate is {facts.ratio.value:.2g} of the critical one, and the loss {seen}: it may come "
        "down in a flatter place. Warm up from a lower rate.",
    )


def _at_the_edge(facts: Facts, here: Branch) -> Judgement | None:
    if facts.ratio is None or not EDGE[0] <= facts.ratio.value <= EDGE[1] or not _falls(facts, here):
        return None
    return Judgement(
        Verdict.AT_THE_EDGE,
        f"The rate is {facts.ratio.value:.2g} of the critical one and the loss falls, as it comes to be by itself in "
        "training on full batches.",
    )


def _too_low(facts: Facts, here: Branch) -> Judgement | None:
    higher = facts.branch(4.0)
    if higher is None or facts.overshoot is None or not is_better(higher, here, facts.start.value):
        return None
    if _is_low(facts, here):
        return Judgement(
            Verdict.TOO_LOW,
            f"After {len(here.losses)} steps four times the rate ends at {higher.end:.3g} instead of {here.end:.3g}. A "
            f"step goes {(1 + facts.overshoot):.1%} of the way to the lowest point along it{_of_critical(facts)}.",
        )
    return None


def _noise_limited(facts: Facts, here: Branch) -> Judgement | None:
    if facts.noise is None or _higher_winner(facts, here) is not None:
        return None
    examples = facts.noise.examples.low if facts.noise.is_bound else facts.noise.examples.value
    if facts.batch_size >= SMALL_BATCH * examples:
        return None
    least = "at least " if facts.noise.is_bound else ""
    return Judgement(
        Verdict.NOISE_LIMITED,
        f"A batch of {facts.batch_size} {facts.unit} is small against the noise scale of {least}{examples:.3g}: a "
        "lower rate and a larger batch are the same to first order.",
    )


def _balanced(facts: Facts, here: Branch) -> Judgement | None:
    steps = f"in {len(here.losses)} steps{_of_critical(facts)}"
    lower, higher = _lower_winner(facts, here), _higher_winner(facts, here)
    if lower is None and higher is None:
        return Judgement(
            Verdict.BALANCED, f"No rate from a quarter to four times this one does clearly better {steps}."
        )
    stable = facts.ratio is None or facts.ratio.value <= EDGE[1]
    if higher is not None and not _is_low(facts, here):
        return Judgement(
            Verdict.BALANCED,
            f"There is some room above: {higher.factor:g} times the rate ends at {higher.end:.3g} instead of "
            f"{here.end:.3g} {steps}.",
        )
    if lower is not None and stable and _falls(facts, here):
        return Judgement(
            Verdict.BALANCED,
            f"The rate is stable, but noisy: {lower.factor:.2g} times the rate ends at {lower.end:.3g} instead "
            f"of {here.end:.3g} {steps}. Let it fall towards the end of the run.",
        )
    return None


# ---------------------------------------------------------------- what the rules ask


def _is_low(facts: Facts, here: Branch) -> bool:
    """Whether steps are short: far below the critical rate and far from the lowest point along themselves. In a few
    steps a higher rate often does somewhat better, and not in a run: unless the rate is very far below the critical
    one, four times the rate must go twice as far at least, seen from a quarter of it."""
    lower, higher = facts.branch(0.25), facts.branch(4.0)
    if lower is None or higher is None:
        return False
    far_below = facts.ratio is None or facts.ratio.value < LOW_RATIO
    short = facts.overshoot is not None and facts.overshoot < LOW_OVERSHOOT
    very_far_below = facts.ratio is not None and facts.ratio.value < VERY_LOW_RATIO
    goes_on = lower.end - here.end < MUCH * (lower.end - higher.end)
    return far_below and short and (very_far_below or goes_on)


def _falls(facts: Facts, branch: Branch) -> bool:
    return branch.is_finite and branch.end < facts.start.value


def _fall(facts: Facts, branch: Branch) -> float:
    return facts.start.value - branch.end


def _rises_first(facts: Facts, here: Branch) -> bool:
    """Whether the loss comes to stand well above its start."""
    return bool(here.losses.max() > facts.start.high + RISE * abs(facts.start.value))


def _lower_winner(facts: Facts, here: Branch) -> Branch | None:
    """The lower rate that does best, if it does better than the rate itself."""
    better = [b for b in facts.branches if b.factor < 1 and is_better(b, here, facts.start.value)]
    return best_of(better)


def _higher_winner(facts: Facts, here: Branch) -> Branch | None:
    """The higher rate, up to four times, that does best, if it does better than the rate itself and any lower one."""
    better = [b for b in facts.branches if 1 < b.factor <= 4 and is_better(b, here, facts.start.value)]
    best, lower = best_of(better), _lower_winner(facts, here)
    return None if best is None or (lower is not None and lower.end < best.end) else best


def _of_critical(facts: Facts) -> str:
    if facts.ratio is None:
        return ""
    least = "at least " if facts.curvature is not None and facts.curvature.is_bound else ""
    return f"; it is {least}{facts.ratio.value:.2g} of the critical rate"


def _signals(facts: Facts, here: Branch) -> str:
    winner = _higher_winner(facts, here) or _lower_winner(facts, here)
    parts = [
        f"the rate is {facts.ratio.value:.2g} of the critical one" if facts.ratio is not None else "",
        f"the overshoot is {facts.overshoot:.2g}" if facts.overshoot is not None else "",
        f"the loss {'falls' if _falls(facts, here) else 'does not fall'} ({facts.start.value:.3g} to {here.end:.3g})",
        f"{winner.factor:g} times the rate does best ({winner.end:.3g})" if winner else "no other rate does better",
    ]
    return "; ".join(filter(None, parts))
