"""while_loop and fori_loop with a dynamic trip count: checkpoints of the carry, then steps in reverse.

The trip count is data, so the carries cannot all be kept. The forward keeps at most K of them, a stride apart; when all
K slots are taken, every other one is dropped and the stride doubles (no trip count need be known). The backward goes
through a stack of checkpoints: the step to be reversed starts from the last one, advancing with new checkpoints in the
free slots, placed by the binomial schedule that needs the fewest steps again.

    Stumm & Walther, New algorithms for optimal online checkpointing, SIAM J. Sci. Comput. 32 (2010)
    Griewank & Walther, Algorithm 799: revolve, ACM Trans. Math. Softw. 26 (2000)
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.memory import residuals, save_policy
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import zeros_like_aval, zeros_like_stack
from ...jaxprs.evaluate import as_function
from .scan import accumulator

REPEATS = 48  # columns of the schedule's table


class Bodies(NamedTuple):
    """A while loop's parts: its condition and body, with how many constants each has."""

    cond: Any
    body: Any
    cond_consts: int
    body_consts: int

    def operands(self, flat):
        """(the condition's constants, the body's constants, the carry) of a flat list of operands."""
        first, second = self.cond_consts, self.cond_consts + self.body_consts
        return list(flat[:first]), list(flat[first:second]), list(flat[second:])


def _bodies(equation):
    p = equation.params
    return Bodies(p["cond_jaxpr"], p["body_jaxpr"], p["cond_nconsts"], p["body_nconsts"])


def while_activity(engine, equation, active):
    """A carry is active if a differentiated operand reaches it in any number of steps."""
    return _active_operands(engine, _bodies(equation), active)[1]


@lru_cache(maxsize=4096)
def _active_operands(engine, bodies, active):
    """The fixpoint: (active operands of the body, active carries)."""
    _, consts, carry = bodies.operands(active)
    while True:
        outputs = engine.active_outputs(bodies.body, (*consts, *carry))
        grown = [a or b for a, b in zip(carry, outputs, strict=True)]
        if grown == carry:
            return (*consts, *carry), tuple(carry)
        carry = grown


@structured_rule("while", activity=while_activity)
def while_vjp(engine, equation, active, wanted):
    """Forward: the loop with checkpoints of its carry. Backward: its steps in reverse, from the checkpoints."""
    return _while(engine, _bodies(equation), active, wanted)


@lru_cache(maxsize=4096)
def _while(engine, bodies, active, wanted):
    step = _step(engine, bodies, active, wanted)
    slots = engine.checkpoints

    def forward(*operands):
        return _checkpointed(bodies, slots, operands)

    def backward(saved, cotangents):
        return _reversed(bodies, step, slots, saved, cotangents)

    return Structured(forward, backward, (*(False,) * bodies.cond_consts, *step.has_cotangent))


class Step(NamedTuple):
    """One step's backward: the body's joint jaxpr with all of its forward computed again, and who has a cotangent."""

    joint: residuals.Joint
    split: residuals.Split
    carry_cts: tuple[bool, ...]
    has_cotangent: tuple[bool, ...]


def _step(engine, bodies, active, wanted):
    engine = engine.inlining()
    active, carry_active = _active_operands(engine, bodies, active)
    carry = tuple(w and a for w, a in zip(wanted, carry_active, strict=True))
    while True:  # the fixpoint of the carries that get a cotangent
        plan = engine.plan(bodies.body, active, carry)
        grown = tuple(a or b for a, b in zip(carry, plan.has_cotangent[bodies.body_consts :], strict=True))
        if grown == carry:
            break
        carry = grown
    joint = residuals.trace_joint(engine, plan, carry, (*(False,) * bodies.body_consts, *carry))
    split = residuals.split(joint, joint.operands, (), save_policy.save_nothing)
    has_cotangent = tuple(a and ct is not None for a, ct in zip(active, joint.found, strict=True))
    return Step(joint, split, carry, has_cotangent)


# ---------------------------------------------------------------- forward


class Checkpoints(NamedTuple):
    """At most K carries, stacked (one slot more takes what is not kept), each with its step; `count` are in use."""

    carries: list[Any]
    steps: Any
    count: Any


def _empty(carry, slots):
    stacks = [zeros_like_stack(x, slots + 1) for x in carry]
    return Checkpoints(stacks, jnp.zeros(slots + 1, jnp.int32), jnp.int32(0))


def _push(kept, carry, step):
    carries = [lax.dynamic_update_index_in_dim(s, x, kept.count, 0) for s, x in zip(kept.carries, carry, strict=True)]
    steps = lax.dynamic_update_index_in_dim(kept.steps, step, kept.count, 0)
    return Checkpoints(carries, steps, kept.count + jnp.int32(1))


def _top(kept):
    """The last checkpoint's carry and step."""
    last = kept.count - jnp.int32(1)
    carry = [lax.dynamic_index_in_dim(s, last, 0, keepdims=False) for s in kept.carries]
    return carry, lax.dynamic_index_in_dim(kept.steps, last, 0, keepdims=False)


def _thin(kept, stride):
    """Keep every other checkpoint and double the stride, if all slots are taken."""
    slots = kept.steps.shape[0] - 1
    full = kept.count >= slots
    order = jnp.minimum(jnp.arange(slots + 1, dtype=jnp.int32) * (1 + full.astype(jnp.int32)), jnp.int32(slots))
    carries = [s[order] for s in kept.carries]
    count = jnp.where(full, jnp.int32((slots + 1) // 2), kept.count)
    return Checkpoints(carries, kept.steps[order], count), jnp.where(full, 2 * stride, stride)


def _checkpointed(bodies, slots, operands):
    """Run the loop: epochs of one stride, of segments that start with a checkpoint, of steps."""
    cond_consts, consts, carry = bodies.operands(operands)
    goes_on, body = _functions(bodies, cond_consts, consts)

    def in_segment(state):
        (carry, step), end = state
        return (step < end) & goes_on(carry)

    def advance(state):
        (carry, step), end = state
        return (body(carry), step + jnp.int32(1)), end

    def in_epoch(state):
        carry, _, kept, _ = state
        return (kept.count < slots) & goes_on(carry)

    def segment(state):
        carry, step, kept, stride = state
        kept = _push(kept, carry, step)
        (carry, step), _ = lax.while_loop(in_segment, advance, ((carry, step), step + stride))
        return carry, step, kept, stride

    def epoch(state):
        carry, step, kept, stride = state
        kept, stride = _thin(kept, stride)
        return lax.while_loop(in_epoch, segment, (carry, step, kept, stride))

    stride = jnp.int32(1 if slots > 1 else np.iinfo(np.int32).max)  # a single one cannot be thinned out
    start = (carry, jnp.int32(0), _empty(carry, slots), stride)
    final, steps, kept, _ = lax.while_loop(lambda state: goes_on(state[0]), epoch, start)
    return final, (consts, kept, steps)


def _functions(bodies, cond_consts, consts):
    cond, body = as_function(bodies.cond), as_function(bodies.body)
    return lambda carry: cond(*cond_consts, *carry)[0], lambda carry: body(*consts, *carry)


# ---------------------------------------------------------------- backward


@lru_cache(maxsize=8)
def _schedule(slots):
    """Row c, column r: the most steps that c checkpoints reverse with r repeats, binomial(c + r, c), at most 2**30."""
    rows = [[min(math.comb(c + r, c), 2**30) for r in range(REPEATS)] for c in range(slots + 1)]
    return np.array(rows, np.int32)


def _next_checkpoint(table, free, distance):
    """How far from the last checkpoint the next one lies, for `distance` steps up to the one to be reversed.

    With c checkpoints (the last one among them) and the fewest repeats r that suffice, the steps before the next
    checkpoint may take c of them and r - 1 repeats.
    """
    own = free + jnp.int32(1)
    row = lax.dynamic_index_in_dim(jnp.asarray(table), own, 0, keepdims=False)
    repeats = jnp.sum(row < distance + 1).astype(jnp.int32)
    reach = row[jnp.clip(repeats - 1, 0, REPEATS - 1)]
    reach = jnp.where(repeats >= REPEATS, (distance + 1) // 2, reach)  # beyond the table: halve
    return jnp.where(free > 0, jnp.clip(reach, 1, distance), distance)


def _reversed(bodies, step, slots, saved, cotangents):
    """Reverse the steps from the last to the first."""
    consts, kept, steps = saved
    table = _schedule(slots)
    _, body = _functions(bodies, (), consts)
    const_found = step.joint.found[: bodies.body_consts]
    carry_found = [ct for ct in step.joint.found[bodies.body_consts :] if ct is not None]
    avals = [v.aval for v in step.joint.outputs]
    cts = [
        zeros_like_aval(aval) if ct is None else ct
        for ct, aval, on in zip(cotangents, avals, step.carry_cts, strict=True)
        if on
    ]
    sums = [zeros_like_aval(accumulator(ct.aval)) for ct in const_found if ct is not None]

    def pull(carry, cts, sums):
        pairs = zip((*step.joint.operands, *step.joint.cotangents), (*consts, *carry, *cts), strict=True)
        outputs = [*carry_found, *(ct for ct in const_found if ct is not None)]
        out = step.split.run(step.split.backward, pairs, outputs)
        terms = zip(sums, out[len(cts) :], strict=True)
        return out[: len(cts)], [lax.add(s, lax.convert_element_type(d, s.dtype)) for s, d in terms]

    def reverse_one(state):
        """Reverse the step of the last checkpoint, which is then no longer needed."""
        kept, at, cts, sums = state
        carry, _ = _top(kept)
        cts, sums = pull(carry, cts, sums)
        return kept._replace(count=kept.count - jnp.int32(1)), at - jnp.int32(1), cts, sums

    def advance(state):
        """Go on from the last checkpoint to the next; without a free slot, to the step itself, and reverse it."""
        kept, at, cts, sums = state
        carry, first = _top(kept)
        free = jnp.int32(slots) - kept.count
        end = first + _next_checkpoint(table, free, at - first)
        carry, _ = lax.while_loop(lambda s: s[1] < end, lambda s: (body(s[0]), s[1] + jnp.int32(1)), (carry, first))
        return _push(kept, carry, end), at, cts, sums

    def one(state):
        kept, at, _, _ = state
        return lax.cond(_top(kept)[1] == at, reverse_one, advance, state)

    state = (kept, steps - jnp.int32(1), cts, sums)
    _, _, cts, sums = lax.while_loop(lambda state: state[1] >= 0, one, state)
    cts, sums = iter(cts), iter(sums)
    carry = [next(cts) if on else None for on in step.carry_cts]
    return [*[None] * bodies.cond_consts, *(None if d is None else next(sums) for d in const_found), *carry]
