"""Long scans within a small budget: only the carry at the start of each segment is kept, and each segment runs again.

A scan of T steps is cut into K segments of s steps, and a rest of fewer steps where s does not divide T. The names are
those of `scan.py`; xs_k and ys_k are the rows of segment k.

    forward, for k = 1 ... K
    (1)  h_k, ys_k = scan from h_{k-1} over xs_k, of which only h_{k-1} is kept
    (2)  h_T, ys = scan from h_K over the rest, with its residuals

    backward, for k = K ... 1
    (2)  dc, dh_K, dxs = pull dh_T, dys back through the rest
    (1)  run segment k again from h_{k-1}, now with its residuals, and pull dh_k, dys_k back through it:
         dc_k, dh_{k-1}, dxs_k; dc += dc_k

The scan over one segment may be segmented itself: with k levels of about T^(1/(k+1)) carries each, every step runs k+1
times forward.

    Griewank, Achieving logarithmic growth of temporal and spatial complexity in reverse automatic differentiation,
    Optimization Methods and Software 1 (1992)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jax import lax

from ...backprop.memory import save_policy
from ...backprop.memory.residual_report import Residual
from ...backprop.registry import Structured
from ...jaxprs.avals import cotangent_aval, zero_cotangent
from ...jaxprs.evaluate import as_function
from ...jaxprs.lists import merge, present, select
from ...jaxprs.types import is_effect_free
from ...jaxprs.views import Scan
from .segment_cost import Cost
from .steps import add_term, plan_step, zero_sum


def by_segments(
    engine: Any, loop: Scan, active: tuple, wanted: tuple, error: save_policy.BudgetError, scan: Callable
) -> Structured:
    """Forward and backward of a scan by segments.

    Args:
        error: of the same scan without segments. Raised if it cannot be cut into segments.
        scan: the rule of a scan (engine, loop, active, wanted), for the segments.
    Raises:
        BudgetError: no number of segments keeps the engine's budget.
    """
    if loop.length < 2 or not is_effect_free(loop.body):
        raise error
    step = plan_step(engine.inlining(), loop.body, loop.num_consts, loop.num_carry, active, wanted)
    cost = _cost(loop, step, error.least)
    budget = engine.budget
    allowed = budget * error.everything * loop.length if budget <= 1 else budget
    count = cost.segments(loop.length, allowed)
    if count is None:
        raise save_policy.budget_error(budget, loop.length, cost.least(loop.length), error.least, error.everything)

    engine = replace(engine, budget=allowed - cost.of_level(loop.length, count))
    size = loop.length // count
    count, rest = divmod(loop.length, size)
    wanted = (*step.carry_cts, *step.ys_cts)
    one, last = (
        scan(engine, loop._replace(length=steps), step.active, wanted) if steps else None for steps in (size, rest)
    )
    segments = Segments(loop, count, size, step.carry_cts, one, last)
    return Structured(segments.forward, segments.backward, one.has_cotangent, segments.describe)


def _cost(loop, step, stacked):
    """The cost of segments of steps that stack so many bytes each."""
    invars, outvars = loop.body.jaxpr.invars, loop.body.jaxpr.outvars
    _, carry, xs = loop.split(invars)
    dc, _, dxs = map(present, loop.split(merge(step.plan.has_cotangent, select(invars, step.plan.has_cotangent))))
    ys = select(loop.split_results(outvars)[1], step.ys_cts)
    total = save_policy.total_bytes
    return Cost(total(carry), stacked, scanned=total([*xs, *ys, *dxs]), sums=total(dc))


@dataclass(frozen=True, eq=False)
class Segments:
    """A scan as a scan over `count` segments of `size` steps, and one over the rest."""

    loop: Scan
    count: int
    size: int
    carry_cts: tuple[bool, ...]  # carries that have a cotangent
    segment: Structured
    rest: Structured | None  # None: the segments are all

    def forward(self, *operands):
        """The outputs, and what the backward reads: c, the xs_k, the h_{k-1} and the residuals of the rest."""
        c, h, xs = self.loop.split(operands)
        xs, xs_rest = self._cut(xs)
        xs = _in_segments(xs, self.count)
        function = as_function(self.loop.body)
        segment = self.loop._replace(length=self.size)

        def step(h, x):
            return self.loop.split_results(function(*c, *h, *x))

        def forward(h, xs):
            out, ys = segment.run(step, h, xs)
            return out, (h, ys)

        h, (starts, ys) = self._over_segments().run(forward, h, xs)  # (1)
        ys, saved = _joined(ys), None
        if self.rest is not None:
            out, saved = self.rest.forward(*c, *h, *xs_rest)  # (2)
            h, ys_rest = self.loop.split_results(out)
            ys = self._whole(ys, ys_rest)
        return [*h, *ys], (c, xs, starts, saved)

    def backward(self, residuals, cotangents):
        """The cotangents of the operands, None where there is none."""
        c, xs, starts, saved = residuals
        dh, dys = self.loop.split_results(cotangents)
        dys, dys_rest = self._cut(dys)
        if self.rest is None:
            dc, dh, dxs = self._pull_through_segments(c, xs, starts, self._arrays(dh), dys)  # (1)
            return [*dc, *dh, *dxs]
        dc_rest, dh, dxs_rest = self.loop.split(self.rest.backward(saved, [*dh, *dys_rest]))  # (2)
        dc, dh, dxs = self._pull_through_segments(c, xs, starts, self._arrays(dh), dys)  # (1)
        return [*_sums(dc, dc_rest), *dh, *self._whole(dxs, dxs_rest)]

    def _pull_through_segments(self, c, xs, starts, dh, dys):
        c_vars, _, _ = self.loop.split(self.loop.body.jaxpr.invars)
        has_dc, _, _ = self.loop.split(self.segment.has_cotangent)
        zeros = [zero_sum(cotangent_aval(v.aval)) if on else None for v, on in zip(c_vars, has_dc, strict=True)]

        def backward(state, rows):
            dh, dc = state
            x, h, dy = rows
            _, saved = self.segment.forward(*c, *h, *x)
            terms, dh, dx = self.loop.split(self.segment.backward(saved, [*dh, *dy]))
            return (dh, _sums(dc, terms)), dx

        rows = xs, starts, _in_segments(dys, self.count)
        (dh, dc), dxs = self._over_segments().run(backward, (dh, zeros), rows, backward=True)
        return dc, dh, _joined(dxs)

    def _over_segments(self):
        return self.loop._replace(length=self.count, unroll=1)

    def _arrays(self, dh):
        """dh as arrays, zeros where one is None; None for carries that never have a cotangent."""
        _, h_vars, _ = self.loop.split(self.loop.body.jaxpr.invars)
        triples = zip(dh, h_vars, self.carry_cts, strict=True)
        return [(zero_cotangent(v.aval) if ct is None else ct) if on else None for ct, v, on in triples]

    def _cut(self, stacks):
        """Stacks over all steps as (those over the segments, those over the rest)."""
        steps = self.count * self.size
        if not self.loop.reverse:
            return _rows(stacks, 0, steps), _rows(stacks, steps, self.loop.length)
        rest = self.loop.length - steps
        return _rows(stacks, rest, self.loop.length), _rows(stacks, 0, rest)

    def _whole(self, segments, rest):
        """The inverse of `_cut`."""
        pairs = zip(segments, rest, strict=True)
        whole = [pair[::-1] if self.loop.reverse else pair for pair in pairs]
        return [None if x is None else lax.concatenate([x, y], 0) for x, y in whole]

    def describe(self, where):
        """Rows for `fb.residuals`."""
        _, carry, _ = self.loop.split(self.loop.body.jaxpr.invars)
        why = f"the carry, once in {self.size} steps, which run again from it"
        rows = []
        for aval in (v.aval for v in carry):
            shape = f"{self.count} x {aval.str_short(short_dtypes=True)}"
            rows.append(Residual("stacked", shape, self.count * save_policy.nbytes(aval), where, why))
        return rows + self.segment.describe(where)


def _rows(stacks, start, end):
    return [None if x is None else lax.slice_in_dim(x, start, end) for x in stacks]


def _in_segments(stacks, count):
    """(steps, ...) -> (segments, steps of one, ...)"""
    return [None if x is None else lax.reshape(x, (count, x.shape[0] // count, *x.shape[1:])) for x in stacks]


def _joined(stacks):
    """(segments, steps of one, ...) -> (steps, ...)"""
    return [None if x is None else lax.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:])) for x in stacks]


def _sums(totals, terms):
    """Running sums with terms added; None is zero."""
    return [
        total if term is None else term if total is None else add_term(total, term)
        for total, term in zip(totals, terms, strict=True)
    ]
