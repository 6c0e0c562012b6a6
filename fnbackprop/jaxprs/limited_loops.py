"""Compiled functions whose `while` loops end: beside the point at which a loop was written to converge, it may not.

    with limited_loops() as limits:
        function = LimitedFunction(loss)
        with limits.learning():
            function(x)          # however many iterations that takes
        function(x + 1e-3)       # raises TooManyIterations if it takes far more
        with limits.running_on():
            function(x)          # loops that test for convergence go on after it, until nothing changes any more

A loop in a `shard_map` ends too, but goes on after its condition in none: its devices may wait for each other.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .avals import aval_of, is_inexact, vary, varying_axes
from .compat import switch_branch
from .evaluate import bind, interpret, read_array, source_line
from .graph import all_equations, ancestors, holds, inner_jaxprs
from .lists import split
from .primitives import Trait, having
from .types import close_jaxpr, open_jaxpr
from .views import Call, Cond, Scan, ShardMap, While

MANY, MORE = 10, 1000  # times as many iterations as at the point, and so many on top
UNLIMITED = 2**30
NO_AXES: frozenset = frozenset()


class TooManyIterations(Exception):
    """A loop takes far more iterations than it does at the point."""


class LoopLimits:
    """How many iterations a loop may take.

    Attributes:
      most: the most that one took while the limits were learnt; is_learning: whether they are being learnt.
      share: of its limit, for which a loop goes on after its condition failed; 0: it ends then.
      exceeded: what was told of those that took more.
    """

    def __init__(self):
        self.most, self.is_learning, self.share = 0, False, 0.0
        self.exceeded: dict[str, None] = {}

    @property
    def limit(self) -> int:
        return UNLIMITED if self.is_learning else int((self.share or 1) * (MANY * self.most + MORE))

    @contextmanager
    def learning(self) -> Iterator[None]:
        """What is called inside takes as many iterations as it takes."""
        self.is_learning = True
        try:
            yield
        finally:
            self.is_learning = False

    @contextmanager
    def running_on(self, share: float = 1.0) -> Iterator[None]:
        """Loops that test for convergence go on inside, for up to this share of the limit, at which they just end."""
        before, self.share = self.share, share
        try:
            yield
        finally:
            self.share = before

    def check(self, iterations: int, closed: Any) -> None:
        """Raise TooManyIterations if one of the loops of this jaxpr took more than it may."""
        if self.is_learning:
            self.most = max(self.most, iterations)
        elif iterations > self.limit and not self.share:
            lines = dict.fromkeys(source_line(e) for e in all_equations(closed) if e.primitive.name == "while")
            said = f"the loop at {' or '.join(lines)} does not end within {self.limit} iterations"
            said += f" beside the point, at which it takes {self.most}"
            self.exceeded[said] = None
            raise TooManyIterations(said)


_limits: ContextVar[LoopLimits | None] = ContextVar("how many iterations a loop may take", default=None)


@contextmanager
def limited_loops() -> Iterator[LoopLimits]:
    """Limits on the loops of every LimitedFunction that is called inside."""
    limits = LoopLimits()
    before = _limits.set(limits)
    try:
        yield limits
    finally:
        _limits.reset(before)


def present_limits() -> LoopLimits:
    """The limits around; without any, limits that nothing was learnt for."""
    return _limits.get() or LoopLimits()


class LimitedFunction:
    """A compiled function whose loops obey the limits around; options: those of `jax.jit`."""

    def __init__(self, function: Callable, **options: Any):
        self.plain, self.options = jax.jit(function, **options), options
        self.runs: dict[tuple[int, bool], tuple[Any, Callable]] = {}  # by a jaxpr and whether its loops go on

    def __call__(self, *args: Any) -> Any:
        limits = _limits.get()
        if limits is None:
            return self.plain(*args)
        traced = self.plain.trace(*args)
        closed = traced.jaxpr
        if not holds(closed, {"while"}):
            return self.plain(*args)
        key = id(closed), limits.share > 0
        if key not in self.runs:
            self.runs[key] = closed, jax.jit(partial(_run, closed, limits.share > 0), **self.options)
        outputs, iterations = self.runs[key][1](limits.limit, *jax.tree.leaves(args))
        limits.check(int(iterations), closed)
        return jax.tree.unflatten(jax.tree.structure(traced.out_info), outputs)


def _run(closed: Any, goes_on: bool, limit: Any, *operands: Any) -> tuple[list[Any], Any]:
    run = LimitedRun(limit, goes_on)
    return run.closed(closed, operands), run.most


class LimitedRun:
    """Evaluates jaxprs with `while` loops that end.

    Attributes:
      limit: of iterations. goes_on: whether loops that test for convergence take as many more after it.
      most: the most that one loop took.
    """

    def __init__(self, limit: Any, goes_on: bool):
        self.limit, self.goes_on, self.most = limit, goes_on, np.int32(0)

    def closed(self, closed: Any, operands: Sequence[Any]) -> list[Any]:
        closed = close_jaxpr(closed)
        return interpret(closed.jaxpr, closed.consts, operands, self.equation, read_array)

    def equation(self, equation: Any, operands: list[Any]) -> Sequence[Any]:
        name = equation.primitive.name
        loops = name == "while" or any(holds(inner, {"while"}) for inner in inner_jaxprs(equation))
        if not loops or name not in STRUCTURED:
            return bind(equation, operands)
        return STRUCTURED[name](self, equation, operands)

    def inner(self, closed: Any, operands: Sequence[Any], axes: frozenset = NO_AXES) -> tuple[list[Any], Any]:
        """The outputs of a body, and the most iterations that one of its loops took; that varies over these axes."""
        run = LimitedRun(self.limit, self.goes_on)
        outputs = run.closed(closed, operands)
        return outputs, vary(jnp.asarray(run.most, np.int32), axes)

    def call(self, equation: Any, operands: list[Any]) -> list[Any]:
        return self.closed(Call.of(equation).body, operands)

    def linear_solve(self, equation: Any, operands: list[Any]) -> list[Any]:
        """By its solver alone: no derivative of it will be asked for."""
        lengths = equation.params["const_lengths"]
        _, _, consts, rest = split(operands, lengths.matvec, lengths.vecmat, lengths.solve)
        return self.closed(equation.params["jaxprs"].solve, [*consts, *rest[lengths.transpose_solve or 0 :]])

    def cond(self, equation: Any, operands: list[Any]) -> list[Any]:
        cond = Cond.of(equation)
        index, rest = cond.split(operands)
        axes = varying_axes(aval_of(index)).union(*map(_axes_of_loops, cond.branches))
        branches = [lambda *values, b=branch: self.inner(b, values, axes) for branch in cond.branches]
        outputs, most = switch_branch(index, branches, cond.platforms, *rest)
        self.most = jnp.maximum(self.most, most)
        return outputs

    def scan(self, equation: Any, operands: list[Any]) -> list[Any]:
        loop = Scan.of(equation)
        consts, carry, xs = loop.split(operands)

        def step(carry: Any, x: Any) -> Any:
            outputs, most = self.inner(loop.body, [*consts, *carry, *x])
            carry, ys = loop.split_results(outputs)
            return carry, (ys, most)

        carry, (ys, most) = loop.run(step, carry, xs)
        self.most = jnp.maximum(self.most, jnp.max(most, initial=0))
        return [*carry, *ys]

    def shard_map(self, equation: Any, operands: list[Any]) -> list[Any]:
        region = ShardMap.of(equation)
        axes = tuple(axis for axis in region.mesh.axis_names if axis in region.axes)

        def each(limit: Any, *values: Any) -> tuple[list[Any], Any]:
            outputs, most = LimitedRun(limit, False).inner(region.body, values, frozenset(axes if region.check else ()))
            return outputs, most[None]

        everywhere = jax.sharding.PartitionSpec()
        specs = (everywhere, *region.in_specs), (list(region.out_specs), jax.sharding.PartitionSpec(axes))
        outputs, most = region.map(each, *specs)(self.limit, *operands)
        self.most = jnp.maximum(self.most, jnp.max(most))
        return outputs

    def while_(self, equation: Any, operands: list[Any]) -> list[Any]:
        loop = While.of(equation)
        condition_consts, consts, carry = loop.split(operands)
        goes_on = self.goes_on and tests_convergence(loop)
        own = varying_axes(open_jaxpr(loop.condition).outvars[0].aval)
        all_axes = own.union(*map(_axes_of_loops, (loop.condition, loop.body)))
        same = own == all_axes  # otherwise a device's inner loops must not end the outer one, which all of them share

        def goes(carry: Any) -> Any:
            return self.inner(loop.condition, [*condition_consts, *carry])[0][0]

        def continues(state: Any) -> Any:
            carry, steps, most, past = state
            more = past < self.limit if goes_on else jnp.any(goes(carry))
            return more & ((jnp.maximum(steps, most) if same else steps) <= self.limit)

        def step(state: Any) -> Any:
            carry, steps, most, past = state
            flags = goes(carry)
            finished = (past > 0) | ~jnp.any(flags)  # which is False unless the loop goes on
            after, inner = self.inner(loop.body, [*consts, *carry])
            if loop.batch_shape:  # of each example: a finished one stays as it is
                flags = flags | finished
                after = [
                    jnp.where(loop.flags_like(flags, new), new, old) for new, old in zip(after, carry, strict=True)
                ]
            if goes_on:
                after, past = _gone_on(carry, after, finished, past, self.limit)
            return after, jnp.where(finished, steps, steps + 1), jnp.maximum(most, inner), past

        carry = list(map(jnp.asarray, carry))
        zeros = (vary(jnp.int32(0), axes) for axes in (own, all_axes, own))
        carry, steps, most, _ = lax.while_loop(continues, step, (carry, *zeros))
        self.most = jnp.maximum(self.most, jnp.maximum(steps, most))
        return carry


def _gone_on(carry: list[Any], after: list[Any], finished: Any, past: Any, limit: Any) -> tuple[list[Any], Any]:
    """A step of a loop that may have converged: it ends at the first that changes nothing, or that divides by zero."""
    floating = [(old, new) for old, new in zip(carry, after, strict=True) if is_inexact(old)]
    breaks = jnp.any(jnp.stack([jnp.any(jnp.isfinite(old) & ~jnp.isfinite(new)) for old, new in floating]))
    stays = jnp.all(jnp.stack([jnp.all((old == new) | ~jnp.isfinite(old)) for old, new in floating]))
    kept = [jnp.where(finished & breaks, old, new) for old, new in zip(carry, after, strict=True)]
    return kept, jnp.where(finished, jnp.where(breaks | stays, limit, past + 1), past)


def _axes_of_loops(closed: Any) -> frozenset:
    """The mesh axes along which the `while` loops of a jaxpr may take different numbers of iterations."""
    conditions = (While.of(e).condition for e in all_equations(closed) if e.primitive.name == "while")
    return NO_AXES.union(*(varying_axes(open_jaxpr(one).outvars[0].aval) for one in conditions))


def tests_convergence(loop: While) -> bool:
    """Whether a loop's condition reads a floating number or a flag of its carry: not a count of steps alone."""
    jaxpr = open_jaxpr(loop.condition)
    read = set(ancestors(jaxpr.eqns, jaxpr.outvars))
    carry = jaxpr.invars[loop.num_condition_consts :]
    floating = any(is_inexact(v.aval) for v in carry)
    return floating and any(v in read for v in carry if is_inexact(v.aval) or v.aval.dtype == np.bool_)


STRUCTURED: dict[str, Callable[[LimitedRun, Any, list[Any]], list[Any]]] = {
    **dict.fromkeys(having(Trait.CALL) | having(Trait.CUSTOM_RULE), LimitedRun.call),
    "custom_linear_solve": LimitedRun.linear_solve,
    "cond": LimitedRun.cond,
    "scan": LimitedRun.scan,
    "shard_map": LimitedRun.shard_map,
    "while": LimitedRun.while_,
}
