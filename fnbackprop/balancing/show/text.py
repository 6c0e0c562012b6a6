"""A balance as text: the verdict first, then the evidence, then the layers, then what it cost."""

import math
from collections.abc import Sequence
from typing import Any

from ..branches import Branch, RangeTest
from ..estimates import Estimate
from ..facts import Facts, LayerFacts
from ..noise import NoiseScale

MOST_LAYERS = 12
UNEVEN = math.log(2.0)  # of a layer's multiplier


def full_text(balance: Any) -> str:
    """All of it."""
    facts: Facts = balance.facts
    where = "at initialisation" if facts.step == 0 else f"at step {facts.step}"
    parts = [f"{balance.verdict}  {facts.name}, {where}", *_wrapped(balance.sentence)]
    parts += _wrapped(suggestion(balance))
    parts += ["", table(balance)] if evidence(facts) else []
    parts += ["", *branch_lines(facts)] if facts.branches else []
    parts += ["", *layer_lines(facts)] if facts.layers else []
    parts += ["", *(f"note: {note}" for note in notes(facts))] if notes(facts) else []
    return "\n".join([*parts, "", cost(facts)])


def suggestion(balance: Any) -> str:
    """The suggested rate in one sentence, or why there is none."""
    if balance.suggestion is None:
        return f"No learning rate is suggested: {balance.why_no_suggestion}."
    found, rate = balance.suggestion, balance.facts.rate
    multiple = found.multiplier
    if multiple.value == 1:
        what = "keep the learning rate" + (f" of {rate:.3g}" if rate is not None else "")
    elif rate is not None:
        what = f"a learning rate of {rate * multiple.value:.2g} instead of {rate:.3g}"
    else:
        what = f"{multiple.value:.2g} times the learning rate"
    unit = 1.0 if rate is None else rate
    span = f"{unit * multiple.low:.2g} to {unit * multiple.high:.2g}" + (" times" if rate is None else "")
    return f"Suggested: {what} ({span}): {found.sentence}."


def table(balance: Any) -> str:
    """The evidence in columns."""
    rows = evidence(balance.facts)
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {meaning}".rstrip() for name, value, meaning in rows)


def evidence(facts: Facts) -> list[tuple[str, str, str]]:
    """(what, value with its uncertainty, what it means), of what is known."""
    found: list[tuple[str, str, str]] = []
    if math.isfinite(facts.start.value):
        found.append(("loss", with_error(facts.start), "mean of some batches"))
    if facts.ratio is not None:
        found.append(
            ("rate / critical rate", _ratio(facts), "rho: above 1 a step overshoots along the sharpest direction")
        )
    if (curvature := facts.curvature) is not None:
        least = ">= " if curvature.is_bound else ""
        found.append(("largest curvature", least + with_error(curvature.largest), "of the loss, on one batch"))
        found.append(("smallest curvature", with_error(curvature.smallest), _of_smallest(curvature.smallest)))
        if curvature.scaled is not None:
            found.append(("scaled curvature", least + with_error(curvature.scaled), "times the optimizer's gain"))
    if facts.batch_sharpness is not None:
        found.append(("batch sharpness", with_error(facts.batch_sharpness), "curvature along the gradients of batches"))
    if facts.overshoot is not None:
        found.append(("overshoot", f"{facts.overshoot:+.2f}", "alpha: -1 no progress, 0 lowest point, above 1 uphill"))
    if facts.noise is not None:
        least = ">= " if facts.noise.is_bound else ""
        value = f"{facts.noise.examples.low:.3g}" if facts.noise.is_bound else with_error(facts.noise.examples)
        found.append(("noise scale", least + value, f"{facts.unit}; {_of_batch(facts.noise)}"))
    if facts.range_test is not None:
        found.append(("range test diverges at", *_divergence(facts.range_test)))
    return found


def _of_batch(noise: NoiseScale) -> str:
    most = "at most " if noise.is_bound else ""
    return f"with {noise.batch} a step makes {most}{noise.efficiency:.2g} of the progress without noise"


def _ratio(facts: Facts) -> str:
    least = ">= " if facts.curvature is not None and facts.curvature.is_bound else ""
    return least + with_error(facts.ratio)


def _of_smallest(smallest: Estimate) -> str:
    return "a saddle: the loss curves down along some direction" if smallest.high < 0 else ""


def _divergence(test: RangeTest) -> tuple[str, str]:
    """Where the loss began to rise for good while the rate grew, in those orders of the batches in which it did."""
    ends = sorted(float(end) for end in test.diverges_at if math.isfinite(end))
    orders, most = len(test.diverges_at), f"up to {float(max(test.factors)):.2g} times"
    if not ends:
        return "none", f"the loss did not rise for good, {most} the rate, in {orders} orders of the batches"
    others = f"; {orders - len(ends)} did not diverge, {most}" if len(ends) < orders else ""
    return ", ".join(f"{end:.2g}" for end in ends), f"times the rate, in {len(ends)} of {orders} orders{others}"


def with_error(estimate: Estimate) -> str:
    """A number and its interval, in as many digits as that has.

    >>> with_error(Estimate(12.3456, 12.3, 12.4)), with_error(Estimate(250.0, 120.0, 700.0))
    ('12.35 ± 0.05', '250 [120, 700]')
    """
    if not math.isfinite(estimate.low + estimate.high):
        return f"{estimate.value:.4g}"
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    if max(below, above) == 0:
        return f"{estimate.value:.4g}"
    if abs(above - below) > 0.2 * max(above, below) and max(below, above) > 0.005 * abs(estimate.value):
        return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
    return f"{estimate.value:.4g} ± {estimate.half_width:.1g}"


def branch_lines(facts: Facts) -> list[str]:
    """The branches in columns, the present rate marked."""
    head = f"the next steps at multiples of the rate, from a loss of {facts.start.value:.4g}:"
    return [head, *(f"  x {branch.factor:<8.3g} {_end(branch)}" for branch in facts.branches)]


def _end(branch: Branch) -> str:
    if not branch.is_finite:
        return f"not finite after {len(branch.losses)} steps"
    mark = "   <- the rate itself" if branch.factor == 1.0 else ""
    return f"{branch.end:.4g} after {len(branch.losses)} steps{mark}"


def ratio_of(layer: LayerFacts) -> str:
    """|update| / |weight|; of weights that are zero there is none."""
    return "-" if math.isnan(layer.update_to_weight) else f"{layer.update_to_weight:.2e}"


def layer_lines(facts: Facts) -> list[str]:
    """The layers in columns: those that an even step would change most."""
    layers = sorted(facts.layers, key=lambda layer: -abs(math.log(layer.multiplier or 1.0)))[:MOST_LAYERS]
    width = max(len(layer.name) for layer in layers)
    head = f"{'layer':<{width}}  update/weight  of the curvature  multiplier"
    rows = [
        f"{layer.name:<{width}}  {ratio_of(layer):>13}  "
        f"{'-' if layer.share is None else format(layer.share, '.1%'):>16}  "
        f"{'-' if layer.multiplier is None else format(layer.multiplier, '.2g'):>10}"
        for layer in facts.layers
        if layer in layers
    ]
    more = len(facts.layers) - len(layers)
    return [
        head,
        *rows,
        *([f"... and {more} more layers"] if more else []),
        *evened([layer for layer in facts.layers if layer in layers]),
    ]


def evened(layers: Sequence[LayerFacts]) -> list[str]:
    """How to even layers out, if some are far apart: a sentence and a line of code. Empty if none is."""
    known = {layer.name: layer.multiplier for layer in layers if layer.multiplier is not None}
    if not any(abs(math.log(multiplier)) > UNEVEN for multiplier in known.values()):
        return []
    code = ", ".join(f"{name!r}: {multiplier:.2g}" for name, multiplier in known.items())
    how = "to even them out, put this last into the optimizer's optax.chain, and balance again:"
    return [how, f"  fb.scale_by_layer({{{code}}})"]


def notes(facts: Facts) -> list[str]:
    """What else there is to know."""
    found = list(facts.notes)
    if facts.not_linear:
        found.append(f"{facts.not_linear}; the critical rate is no guide then, and the branches decide")
    if facts.curvature is not None and facts.curvature.is_bound:
        found.append(f"the largest curvature had not converged after {facts.curvature.steps} products: it is a bound")
    if facts.interrupted:
        found.append("interrupted: what was not measured is left out")
    return found


def cost(facts: Facts) -> str:
    return f"{facts.passes} forward-backward passes, {facts.seconds:.1f} s"


def _wrapped(sentence: str) -> list[str]:
    import textwrap

    return textwrap.wrap(sentence, 100)
