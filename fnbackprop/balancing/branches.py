"""What would happen: the next steps at other learning rates, on copies and on the same data.

A learning rate is changed by scaling the updates, which is the same for every optimizer whose last factor it is.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .estimates import Estimate, difference
from .subject import Machine, copied

STEPS = 50
LAST = 20  # steps over which the losses of branches are compared, and the overshoot is taken
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
ERRORS = 2.0  # standard errors that make a difference
MARGIN = 0.02  # of the fall of the loss: a smaller difference decides nothing
RANGE_STEPS, RANGE_ORDERS = 100, 3
DIVERGED = 4.0  # times the first loss
FURTHEST = 1e4  # from the learning rate that a rate is tried


@dataclasses.dataclass(frozen=True)
class Branch:
    """Steps at a multiple of the learning rate.

    Attributes:
      factor: of the learning rate.
      losses: before each update, (steps,); fewer than asked for if one was not finite, which is the last.
      overshoots: of each update: -1 it went nowhere, 0 to the lowest point along itself, 1 across the valley to the
        same height, above 1 higher than it began. Empty if not measured.
    """

    factor: float
    losses: np.ndarray
    overshoots: np.ndarray

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.losses).all())

    @property
    def end(self) -> float:
        """The mean loss of the last steps."""
        return float(self.losses[-LAST:].mean()) if self.is_finite else math.inf

    @property
    def overshoot(self) -> float:
        """The median of the last steps'; NaN if not measured."""
        last = self.overshoots[-LAST:]
        return float(np.median(last[np.isfinite(last)])) if np.isfinite(last).any() else math.nan


def run_branch(machine: Machine, factor: float, steps: int = STEPS, overshoots: bool = False, first: int = 0) -> Branch:
    """Run some steps on copies of the state; stops early where the loss is not finite.

    Args:
      machine: the subject's.
      factor: of the learning rate.
      steps: how many.
      overshoots: whether the gradient is taken again after each update, to see how far it went.
      first: number of the first batch.
    """
    return _run(machine, [factor] * steps, overshoots, first)


def range_test(machine: Machine, low: float, high: float, order: int, steps: int = RANGE_STEPS) -> Branch:
    """Steps at a rate that grows exponentially between two factors; the order of the data is another for each
    `order`."""
    return _run(machine, np.geomspace(low, high, steps), False, 17 * order, stop_above=DIVERGED)


def _run(
    machine: Machine, factors: Sequence[float], overshoots: bool, first: int, stop_above: float = math.inf
) -> Branch:
    subject = machine.subject
    params, opt_state = copied(subject.params), copied(subject.opt_state())
    losses, ratios = [], []
    for i, factor in enumerate(factors):
        params, opt_state, loss, slopes = _step(machine, params, opt_state, first + i, float(factor), overshoots)
        losses.append(loss)
        ratios += slopes
        if i % 10 == 9 and not _goes_on(losses, stop_above):
            break
    return Branch(factors[0], _up_to_break(np.asarray(jnp.stack(losses), float)), _overshoots(ratios))


def _step(machine: Machine, params: Any, opt_state: Any, number: int, factor: float, seen: bool) -> tuple[Any, ...]:
    """(params, opt_state, loss, slopes): if it is `seen`, the slopes along the update before and after it. What it
    computes on the way leaves the memory with it."""
    loss, gradient = machine.gradient(params, number)
    if not seen:
        return *machine.advance(gradient, opt_state, params, loss, number, factor), loss, []
    params, opt_state, updates, before = machine.advance_seen(gradient, opt_state, params, loss, number, factor)
    return params, opt_state, loss, [(before, machine.slope(params, updates, number))]


def _goes_on(losses: Sequence, stop_above: float) -> bool:
    now, start = float(losses[-1]), float(losses[0])
    return math.isfinite(now) and (stop_above == math.inf or now <= start + (stop_above - 1) * abs(start))


def _up_to_break(losses: np.ndarray) -> np.ndarray:
    """The losses up to the first that is not finite."""
    broken = np.flatnonzero(~np.isfinite(losses))
    return losses[: broken[0] + 1] if len(broken) else losses


def _overshoots(slopes: Sequence) -> np.ndarray:
    """By the slopes along each update before and after it; an update uphill has none."""
    pairs = np.array([[float(before), float(after)] for before, after in slopes]).reshape(-1, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs[:, 0] < 0, -pairs[:, 1] / pairs[:, 0], math.nan)


def is_better(one: Branch, other: Branch, start: float) -> bool:
    """Whether the first ended lower than the second, by more than chance and by a part of the fall that matters."""
    if not one.is_finite:
        return False
    if not other.is_finite:
        return True
    mean, error = difference(other.losses[-LAST:], one.losses[-LAST:])
    return mean > ERRORS * error and mean > MARGIN * abs(start - one.end)


def all_same(some: Sequence[Branch]) -> bool:
    """Whether the rate made no difference to the losses."""
    return len(some) > 1 and all(np.array_equal(branch.losses, some[0].losses) for branch in some)


def best_of(branches: Sequence[Branch]) -> Branch | None:
    """The branch that ended lowest."""
    return min((b for b in branches if b.is_finite), key=lambda b: b.end, default=None)


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """Losses while the rate grew, in several orders of the data.

    Attributes:
      factors: of the learning rate, (steps,).
      losses: (orders, steps), NaN after an order has diverged.
      diverges_at: the factor at which each order's loss began to rise for good, (orders,); infinite if it never did.
    """

    factors: np.ndarray
    losses: np.ndarray
    diverges_at: np.ndarray

    @property
    def highest(self) -> float:
        """The factor at which the first order diverged."""
        return float(self.diverges_at.min())


def summarise_range(factors: np.ndarray, runs: Sequence[Branch]) -> RangeTest:
    losses = np.full((len(runs), len(factors)), math.nan)
    for row, run in zip(losses, runs, strict=True):
        row[: len(run.losses)] = run.losses
    return RangeTest(factors, losses, np.array([_diverges_at(factors, row) for row in losses]))


def _diverges_at(factors: np.ndarray, losses: np.ndarray) -> float:
    """The factor after which the loss, averaged over five steps, never was as low again, if it rose above its start."""
    known = losses[np.isfinite(losses)]
    if len(known) < 5:
        return float(factors[max(len(known) - 1, 0)])
    smooth = np.convolve(known, np.ones(5) / 5, mode="valid")
    broke = len(known) < len(losses)
    start = float(known[:5].mean())
    if not broke and smooth[-1] <= start:
        return math.inf
    return float(factors[int(smooth.argmin()) + 2])


def suggestions(ratio: Estimate | None, test: RangeTest | None) -> list[float]:
    """Factors of the learning rate worth a look: half the critical rate, and half the rate at which a range test
    broke; none further than `FURTHEST`."""
    found = [0.5 / ratio.value] if ratio is not None and ratio.value > 0 else []
    if test is not None and math.isfinite(test.highest):
        found.append(0.5 * test.highest)
    return [float(np.clip(factor, 1 / FURTHEST, FURTHEST)) for factor in found]
