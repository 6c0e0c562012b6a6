"""How the recording engine walks what holds jaxprs: calls where they stand, loops one iteration after another, of a
condition the branch that is taken.

Each function here is a structured rule (see `rules/calls/call.py`) for operands that are numbers.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..backprop.registry import Structured
from ..jaxprs.avals import aval_of, zeros_like_aval
from ..jaxprs.compat import is_hijax_checkpoint
from ..jaxprs.evaluate import as_function
from ..jaxprs.primitives import Trait, has
from ..jaxprs.views import Call, Cond, Scan, While
from ..rules.calls.call import walked
from ..rules.loops.steps import add_term, plan_step, zero_sum
from .regions import Region


def body_of(equation: Any, in_region: bool = False) -> Callable | None:
    """How an equation's body is walked; None for one that its own rule walks. `in_region`: inside a `shard_map`."""
    name = equation.primitive.name
    if has(equation, Trait.CALL) or name in CALLS or is_hijax_checkpoint(equation):
        return call
    if in_region:  # whose devices may take other branches, and other numbers of iterations
        return scan if name == "scan" and equation.params["length"] else None
    return {"scan": scan, "while": while_loop, "cond": cond, "shard_map": shard_map}.get(name)


def closed_bodies(records: Iterable[Any]) -> list[str]:
    """A note for each equation of a `shard_map` whose body is not looked into."""
    shut = (r for r in records if r.region is not None and not r.entered and r.primitive in CLOSED)
    told = "stands in a shard_map, whose devices may go different ways: it is one equation here"
    return list(dict.fromkeys(f"{r.primitive} at {r.place} {told}" for r in shut))


CLOSED = ("while", "cond", "shard_map")
CALLS = ("composite", "custom_partitioning", "xla_metadata_call", "remat_opt", "custom_vmap_call")


def call(engine: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Structured:
    """Not shared with equal calls: each has records of its own."""
    return walked(engine, Call.of(equation).body, active, wanted)


def cond(engine: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Structured:
    """Only the branch that is taken is planned: the others may be for other platforms."""
    view = Cond.of(equation)

    def forward(index, *operands):
        taken = view.taken(index)
        plan = engine.plan(view.branches[taken], active[1:], wanted)
        with engine.recorder.inside(equation, f"branch {taken}"):
            outputs, residuals = engine.forward(plan, operands)
        return outputs, (taken, plan, residuals)

    def backward(saved, cotangents):
        taken, plan, residuals = saved
        with engine.recorder.inside(equation, f"branch {taken}"):
            return [None, *engine.backward(plan, residuals, cotangents)]

    return Structured(forward, backward, (False, *active[1:]))


def scan(engine: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Structured:
    loop, recorder = Scan.of(equation), engine.recorder
    step = plan_step(engine, loop.body, loop.num_consts, loop.num_carry, active, wanted)
    order = range(loop.length)[::-1] if loop.reverse else range(loop.length)

    def forward(*operands):
        consts, carry, xs = loop.split(operands)
        saved, rows = [], {}
        for i in order:
            with recorder.at_iteration(i):
                row = [recorder.derived(engine.row(x, i), [x], "row", False) for x in xs]
                outputs, residuals = engine.forward(step.plan, [*consts, *carry, *row])
            carry, rows[i] = loop.split_results(outputs)
            saved.append(residuals)
        avals = loop.split_results([v.aval for v in loop.body.jaxpr.outvars])[1]
        ys = [_rows(engine, [rows[i][j] for i in range(loop.length)], a, False) for j, a in enumerate(avals)]
        return [*carry, *ys], saved

    def backward(saved, cotangents):
        dcarry, dys = loop.split_results(cotangents)
        sums, rows = Sums(engine, loop.num_consts), {}
        for i, residuals in zip(reversed(order), reversed(saved), strict=True):
            with recorder.at_iteration(i):
                row = [dy if dy is None else recorder.derived(engine.row(dy, i), [dy], "row", True) for dy in dys]
                found = engine.backward(step.plan, residuals, [*dcarry, *row])
            terms, dcarry, rows[i] = loop.split(found)
            sums.add(terms)
        avals = loop.split([v.aval for v in loop.body.jaxpr.invars]).xs
        dxs = [_rows(engine, [rows[i][j] for i in range(loop.length)], a, True) for j, a in enumerate(avals)]
        return [*sums.total, *dcarry, *dxs]

    return Structured(forward, backward, step.plan.has_cotangent)


def while_loop(engine: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Structured:
    """Of a batched loop, the examples that have finished stay as they are."""
    loop, recorder = While.of(equation), engine.recorder
    first, test = loop.num_condition_consts, as_function(loop.condition)
    count = loop.num_body_consts
    step = plan_step(engine, loop.body, count, len(active) - first - count, active[first:], wanted)

    def chosen(flags, new, old, backward=False):
        """An example's new value where its flag is set."""
        if not flags.ndim or (new is None and old is None):
            return new
        new, old = (jnp.zeros_like(other) if x is None else x for x, other in ((new, old), (old, new)))
        value = jnp.where(loop.flags_like(flags, new), new, old)
        return recorder.derived(value, [new, old], "examples", backward)

    def forward(*operands):
        condition_consts, consts, carry = loop.split(operands)
        saved = []
        while np.any(flags := np.asarray(test(*condition_consts, *carry)[0])):
            with recorder.at_iteration(len(saved)):
                outputs, residuals = engine.forward(step.plan, [*consts, *carry])
                carry = [chosen(flags, *pair) for pair in zip(outputs, carry, strict=True)]
            saved.append((flags, residuals))
        return carry, saved

    def backward(saved, cotangents):
        dcarry, sums = list(cotangents), Sums(engine, count)
        for i in reversed(range(len(saved))):
            flags, residuals = saved[i]
            with recorder.at_iteration(i):
                after = [ct if ct is None else chosen(flags, ct, jnp.zeros_like(ct), True) for ct in dcarry]
                terms, before = loop.split_body(engine.backward(step.plan, residuals, after))
                dcarry = [chosen(flags, *pair, True) for pair in zip(before, dcarry, strict=True)]
            sums.add(terms)
        return [*[None] * first, *sums.total, *dcarry]

    return Structured(forward, backward, (*[False] * first, *step.plan.has_cotangent))


def shard_map(engine: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Structured:
    """The body is walked on stacks of the devices' pieces: see `regions.py`."""
    region, recorder = Region(equation), engine.recorder
    inner = engine.inside(region)
    plan = inner.plan(region.view.body, active, wanted)

    def moved(move: Callable, xs: Any, backward: bool) -> list[Any]:
        """What is taken into the region, or out of it."""
        pairs = zip(move(xs), xs, strict=True)
        return [y if y is None else recorder.derived(y, [x], "pieces", backward) for y, x in pairs]

    def forward(*operands):
        outputs, residuals = inner.forward(plan, moved(region.enter, operands, False))
        return moved(region.leave, outputs, False), residuals

    def backward(residuals, cotangents):
        found = inner.backward(plan, residuals, moved(region.enter_backward, cotangents, True))
        return moved(region.leave_backward, found, True)

    return Structured(forward, backward, plan.has_cotangent)


class Sums:
    """Sums over the iterations of the cotangents of a loop's constants, in the dtype that the engine's own have."""

    def __init__(self, engine: Any, count: int):
        self.engine = engine
        self.total: list[Any] = [None] * count

    def add(self, terms: list[Any]) -> None:
        for j, term in enumerate(terms):
            if term is not None:
                old = zero_sum(aval_of(term)) if self.total[j] is None else self.total[j]
                self.total[j] = self.engine.recorder.derived(add_term(old, term), [old, term], "sum over time", True)


def _rows(engine: Any, rows: list[Any], aval: Any, backward: bool) -> Any:
    """The rows of a value or, `backward`, of its cotangent, put together; None if all of these are."""
    if not rows and not backward:
        return zeros_like_aval(aval, (0,))
    known = next((row for row in rows if row is not None), None)
    if known is None:
        return None
    rows = [jnp.zeros_like(known) if row is None else row for row in rows]
    return engine.recorder.derived(engine.stack_rows(rows), rows, "rows", backward)
