"""Long scans within a small budget: the carry is kept once in a segment of steps, and each segment runs again.

A scan of T steps becomes a scan over segments of s steps. The forward keeps the T/s carries at their starts; the
backward goes from the last segment to the first, runs it again from its carry, now with the residuals stacked, and
pulls back through it. The segments may be segmented in turn, so that k levels of about T^(1/(k+1)) carries each do
with k+1 forward runs (treeverse: Griewank 1992, Achieving logarithmic growth of temporal and spatial complexity in
reverse automatic differentiation).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import lax

from ...backprop.memory.residual_report import Residual
from ...backprop.memory.save_policy import nbytes
from ...backprop.precision import wide_dtype
from ...backprop.registry import Structured
from ...jaxprs.avals import zeros_like_aval
from ...jaxprs.evaluate import as_function


class Loop(NamedTuple):
    """A scan but for its operands: `groups` tells these apart."""

    body: Any
    groups: Any
    length: int
    reverse: bool
    unroll: Any

    def run(self, consts: list, carry: list, xs: list, length: int) -> tuple[list, list]:
        """The plain scan: (carry, ys)."""
        function = as_function(self.body)

        def step(carry, xs):
            return self.groups.results(function(*consts, *carry, *xs))

        return lax.scan(step, carry, xs, length=length, reverse=self.reverse, unroll=self.unroll)


class Cost(NamedTuple):
    """Bytes: of the carry, kept at the start of each segment; of what one step stacks for its backward; of what is
    scanned over in one step, of which a segment has a copy; and of the sums over time, one for each level."""

    carry: int
    stacked: int
    scanned: int = 0
    sums: int = 0

    def needed(self, steps: int, levels: int) -> int:
        """Bytes kept by a scan with so many levels of segments."""
        if levels == 0:
            return steps * self.stacked
        count = self.count(steps, levels)
        size = math.ceil(steps / count)
        return self.of_level(steps, count) + self.needed(size, levels - 1)

    def least(self, steps: int) -> int:
        """The least that any number of levels needs."""
        return min(self.needed(steps, levels) for levels in range(_most_levels(steps) + 1))

    def segments(self, steps: int, allowed: float) -> int | None:
        """How many segments to make so that `allowed` bytes do, by as few levels as possible; None: no number does."""
        for levels in range(1, _most_levels(steps) + 1):
            if self.needed(steps, levels) <= allowed:
                return self.count(steps, levels)
        return None

    def count(self, steps: int, levels: int) -> int:
        """The number of segments at which all levels keep about as much: a divisor of the steps, if one is near."""
        best = (steps * max(self.stacked + self.scanned, 1) / max(self.carry, 1)) ** (1 / (levels + 1))
        best = min(max(best, 2.0), float(steps))
        divisors = [d for d in range(2, steps + 1) if steps % d == 0 and best / 1.5 <= d <= best * 1.5]
        return min(divisors, key=lambda d: abs(math.log(d / best))) if divisors else math.ceil(best)

    def of_level(self, steps: int, count: int) -> int:
        """What one level of `count` segments keeps, beside what is kept within a segment."""
        return count * self.carry + math.ceil(steps / count) * self.scanned + self.sums


def _most_levels(steps: int) -> int:
    return max(0, steps.bit_length() - 1)


def segmented(loop: Loop, count: int, carry_cts: tuple[bool, ...], pulled: Callable[[int], Structured]) -> Structured:
    """Forward and backward of a scan by `count` segments of equal length and a shorter last one.

    Args:
        carry_cts: the carries that have a cotangent at every step.
        pulled: forward and backward of the same scan over a number of steps, as `Structured`; of these the wanted
            outputs are the carries of `carry_cts` and the ys that have a cotangent.
    """
    size = loop.length // count
    count, rest = divmod(loop.length, size)
    inner, last = pulled(size), pulled(rest) if rest else None
    groups = loop.groups

    def forward(*operands):
        consts, carry, xs = groups.operands(operands)
        first, after = _parts(xs, count * size, loop.reverse)

        def step(carry, x):
            out, ys = loop.run(consts, carry, x, size)
            return out, (carry, ys)

        rows = [_in_segments(x, count) for x in first]
        carry, (starts, ys) = lax.scan(step, carry, rows, length=count, reverse=loop.reverse)
        ys, saved = [_joined(y) for y in ys], None
        if last is not None:
            out, saved = last.forward(*consts, *carry, *after)
            carry, ys_after = groups.results(out)
            ys = [_whole(*pair, loop.reverse) for pair in zip(ys, ys_after, strict=True)]
        return [*carry, *ys], (consts, rows, starts, saved)

    def backward(residual, cotangents):
        consts, rows, starts, saved = residual
        dcarry, dys = groups.results(cotangents)
        dys, dys_after = _parts(dys, count * size, loop.reverse)
        found = None
        if last is not None:
            found = groups.operands(last.backward(saved, [*dcarry, *dys_after]))
            dcarry = found[1]
        avals = [v.aval for v in loop.body.jaxpr.invars]
        dconsts, dcarry, dxs = _reversed(consts, rows, starts, _start(avals, dcarry), dys)
        if found is not None:
            dconsts = [_sum(*pair) for pair in zip(dconsts, found[0], strict=True)]
            pairs = zip(dxs, found[2], strict=True)
            dxs = [None if d is None else _whole(d, after, loop.reverse) for d, after in pairs]
        return [*dconsts, *dcarry, *dxs]

    def _start(avals, dcarry):
        own = groups.operands(avals)[1]
        return [
            (zeros_like_aval(aval) if ct is None else ct) if on else None
            for ct, aval, on in zip(dcarry, own, carry_cts, strict=True)
        ]

    def _reversed(consts, rows, starts, dcarry, dys):
        has_cotangent = groups.operands(inner.has_cotangent)
        sums = [
            zeros_like_aval(v.aval.update(dtype=wide_dtype(v.aval.dtype))) if on else None
            for v, on in zip(groups.operands(loop.body.jaxpr.invars)[0], has_cotangent[0], strict=True)
        ]

        def step(state, scanned):
            dcarry, sums = state
            x, start, dys = scanned
            _, residual = inner.forward(*consts, *start, *x)
            dconsts, dcarry, dxs = groups.operands(inner.backward(residual, [*dcarry, *dys]))
            return (dcarry, [_sum(*pair) for pair in zip(sums, dconsts, strict=True)]), dxs

        scanned = rows, starts, [None if d is None else _in_segments(d, count) for d in dys]
        (dcarry, sums), dxs = lax.scan(step, (dcarry, sums), scanned, length=count, reverse=not loop.reverse)
        return sums, dcarry, [None if d is None else _joined(d) for d in dxs]

    def describe(where):
        kept = [v.aval for v in groups.operands(loop.body.jaxpr.invars)[1]]
        why = f"the carry, once in {size} steps, which run again from it"
        shapes = [f"{count} x {aval.str_short(short_dtypes=True)}" for aval in kept]
        sizes = [count * nbytes(aval) for aval in kept]
        rows = [Residual("stacked", *row, where, why) for row in zip(shapes, sizes, strict=True)]
        return rows + inner.describe(where)

    return Structured(forward, backward, inner.has_cotangent, describe)


def _parts(xs: list, steps: int, reverse: bool) -> tuple[list, list]:
    """Scanned arrays in the order of the steps: the first `steps`, and those after them."""

    def cut(x, first):
        if x is None:
            return None
        boundary = x.shape[0] - steps if reverse else steps
        low, high = (0, boundary) if first != reverse else (boundary, x.shape[0])
        return lax.slice_in_dim(x, low, high)

    return [cut(x, True) for x in xs], [cut(x, False) for x in xs]


def _whole(first: Any, after: Any, reverse: bool) -> Any:
    """What `_parts` parted."""
    return lax.concatenate([after, first] if reverse else [first, after], 0)


def _in_segments(x: Any, count: int) -> Any:
    return lax.reshape(x, (count, x.shape[0] // count, *x.shape[1:]))


def _joined(x: Any) -> Any:
    return lax.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))


def _sum(total: Any, term: Any) -> Any:
    """A running sum with a term added; None is zero."""
    if term is None or total is None:
        return total if term is None else term
    return lax.add(total, lax.convert_element_type(term, total.dtype))
