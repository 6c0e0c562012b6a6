"""while_loop, and fori_loop with a dynamic trip count.

With the carry h, the body's constants c and the condition g, the forward is, for t = 0, 1 ... while g(h_t),

    (1)  keep h_t, or not: at most K of them
    (2)  h_{t+1} = f(c, h_t)

dh starts as the cotangent of the last carry. With T steps in all, the backward is, for t = T-1 ... 0,

    (1)  h_t, from the last checkpoint before it, with further checkpoints on the way
    (2)  dc_t, dh_t = fᵀ(c, h_t; dh_{t+1}), for which f is evaluated again;  dc += dc_t

where fᵀ is the backward pass of f: from f's operands and its result's cotangent to its operands' cotangents.

T is data, so the h_t cannot all be stacked, as those of a scan are. Which are kept: `checkpoints.py`.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...backprop.memory import residuals, save_policy
from ...backprop.planning_notes import cached_plan, note
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import explicit_sharding, lay_out, vary, varying_axes, zero_cotangent
from ...jaxprs.evaluate import as_function, bind
from ...jaxprs.lists import merge, pairs, present, select, split
from ...jaxprs.views import While
from .batched_while import is_separate, masked, written_out
from .checkpoints import Checkpoints, next_checkpoint, schedule
from .decisions import decided_carries, warn_of_decisions
from .steps import active_flags, add_term, plan_step, zero_sum
from .varying_steps import shares, step_axes, sums, varied


def while_activity(engine, equation, active):
    """A carry is active if a differentiated operand reaches it in any number of steps, be it by decisions alone: these
    have no slope, but where their cotangent is wanted, that must be said."""
    loop = While.of(equation)
    flags = zip(_smooth_carries(engine, loop, active), decided_carries(engine, loop, active), strict=True)
    return tuple(smooth or decided for smooth, decided in flags)


def _smooth_carries(engine, loop, active):
    _, consts, carry = loop.split(active)
    return active_flags(engine, loop.body, len(consts), len(carry), (*consts, *carry))[1]


@structured_rule("while", activity=while_activity)
def while_vjp(engine, equation, active, wanted):
    """h_{t+1} = f(c, h_t): the loop with checkpoints of its carry; its steps in reverse, from the checkpoints."""
    loop = While.of(equation)
    if any(select(decided_carries(engine, loop, active), wanted)):
        note(warn_of_decisions, equation)
    pulled = tuple(w and on for w, on in zip(wanted, _smooth_carries(engine, loop, active), strict=True))
    if not any(pulled):
        return Structured(None, None, (False,) * len(active))  # nothing flows: it is left as it is
    found = _while(engine, loop, active, pulled)
    if pulled != wanted:
        backward = found.backward
        found = found._replace(backward=lambda saved, cts: backward(saved, merge(pulled, select(cts, pulled))))
    return _typed_as(equation, found) if loop.batch_shape else found


@cached_plan
def _while(engine, loop, active, wanted):
    forward, step = _kind(loop)(engine, loop, active, wanted)
    axes, slots, constants = step_axes(loop), engine.checkpoints, loop.num_condition_consts
    consts, carry = loop.split_body([v.aval for v in loop.body.jaxpr.invars])
    more = step.loop.num_body_consts - len(consts)  # constants of the step that come before the body's own
    counts = len(step.carry_cts) - len(carry)  # carries of the step that come after the body's own
    own = slice(more, more + len(consts) + len(carry))

    def backward(saved, cotangents):
        c, kept, steps = saved
        saved = [vary(x, axes) for x in c], kept, steps
        cotangents = [*shares(cotangents, carry, axes), *[None] * counts]
        found = _backward(step, slots, saved, cotangents)
        return [*[None] * constants, *sums(found[own], [*consts, *carry], axes)]

    return Structured(forward, backward, (*(False,) * constants, *step.has_cotangent[own]))


def _kind(loop):
    if not loop.batch_shape:
        return _plain
    return _masked if is_separate(loop) else _combining


def _combining(engine, loop, active, wanted):
    """(forward, backward step) of a batched loop whose examples depend on each other.

    The body may be singular where an example has finished; the zero that it gets from there stays zero."""
    engine = replace(engine, safe_select=True)
    axes = step_axes(loop)
    plain = written_out(varied(loop, axes))
    condition_consts, consts, carry = loop.split(active)
    more = (False,) * len(condition_consts)
    forward, step = _plain(engine, plain, (*more, *more, *consts, *carry), wanted)

    def repeated(*operands):
        operands = [vary(x, axes) for x in operands]
        return forward(*operands[: len(more)], *operands)

    return repeated, step


def _plain(engine, loop, active, wanted):
    """(forward, backward step) of a loop."""
    axes = step_axes(loop)
    _, consts, carry = loop.split(active)

    def forward(*operands):
        _, c, _ = loop.split(operands)
        h, kept, steps = _forward(loop, engine.checkpoints, axes, operands)
        return h, (c, kept, steps)

    return forward, _step(engine, varied(loop, axes), (*consts, *carry), wanted)


def _masked(engine, loop, active, wanted):
    """(forward, backward step) of a batched loop whose examples are separate: of `batched_while.py`'s plain loops."""
    axes = step_axes(loop)
    loops = masked(varied(loop, axes))
    _, consts, carry = loop.split(active)
    inactive = (False,) * (1 + len(carry))  # n and s

    def forward(*operands):
        operands = [vary(x, axes) for x in operands]
        condition_consts, _, h = loop.split(operands)
        consts = loops.safe_constants(operands)
        operands = [*condition_consts, *condition_consts, *consts, *h, loops.no_steps()]
        (*h, n), kept, steps = _forward(loops.counting, engine.checkpoints, axes, operands)
        return h, ([n, *consts], kept, steps)

    return forward, _step(engine, loops.replayed, (*inactive, *consts, *carry, False), (*wanted, False))


def _typed_as(equation, found):
    """The results where devices agree by their types, from the loop itself: a masked one varies as its condition does.
    The equation is dropped if nobody reads them."""
    loop = While.of(equation)
    agreed = [not step_axes(loop) <= varying_axes(v.aval) for v in equation.outvars]
    if not any(agreed):
        return found

    def forward(*operands):
        outputs, saved = found.forward(*operands)
        triples = zip(bind(equation, operands), outputs, agreed, strict=True)
        return [typed if on else output for typed, output, on in triples], saved

    return found._replace(forward=forward)


# ---------------------------------------------------------------- forward


def _forward(loop, slots, axes, operands):
    """Run the loop: epochs of one stride, of segments that start with a checkpoint, of steps.

    axes: of the mesh, along which the number of steps varies. Returns the last carry, the checkpoints, and that number.
    """
    condition_consts, c, h = loop.split(operands)
    condition, f = as_function(loop.condition), as_function(loop.body)
    # A step may lay the carry out on a mesh that the start is of no part of: that of a shard_map in it.
    h = [lay_out(x, explicit_sharding(v.aval)) for x, v in zip(h, loop.body.jaxpr.outvars, strict=True)]

    def goes_on(h):
        return condition(*condition_consts, *h)[0]

    def in_segment(state):
        (h, t), end = state
        return (t < end) & goes_on(h)

    def step(state):
        (h, t), end = state
        return (f(*c, *h), t + jnp.int32(1)), end  # (2)

    def in_epoch(state):
        h, _, kept, _ = state
        return (kept.used < slots) & goes_on(h)

    def segment(state):
        h, t, kept, stride = state
        kept = kept.push(h, t)  # (1)
        (h, t), _ = lax.while_loop(in_segment, step, ((h, t), t + stride))
        return h, t, kept, stride

    def epoch(state):
        h, t, kept, stride = state
        kept, stride = kept.thinned(stride)
        return lax.while_loop(in_epoch, segment, (h, t, kept, stride))

    stride = vary(jnp.int32(1 if slots > 1 else np.iinfo(np.int32).max), axes)  # a single one cannot be thinned out
    kept = jax.tree.map(lambda x: vary(x, axes), Checkpoints.empty(h, slots))
    start = h, vary(jnp.int32(0), axes), kept, stride
    h, steps, kept, _ = lax.while_loop(lambda state: goes_on(state[0]), epoch, start)
    return h, kept, steps


# ---------------------------------------------------------------- backward


def _backward(step, slots, saved, cotangents):
    """The cotangents of the step's operands, None where there is none."""
    c, kept, steps = saved
    table, f = schedule(slots), as_function(step.loop.body)

    def reverse(state):
        """Reverse step t, which the last checkpoint stands at; it is then no longer needed."""
        kept, t, dh, dc = state
        h, _ = kept.top()  # (1)
        terms, dh = step.pull(c, h, dh)  # (2)
        dc = [add_term(*both) for both in zip(dc, terms, strict=True)]
        return kept.pop(), t - jnp.int32(1), dh, dc

    def advance(state):
        """Go from the last checkpoint to the next, which is t itself if no slot is free."""
        kept, t, dh, dc = state
        h, first = kept.top()
        free = jnp.int32(slots) - kept.used
        end = first + next_checkpoint(table, free, t - first)
        h, _ = lax.while_loop(lambda s: s[1] < end, lambda s: (f(*c, *s[0]), s[1] + jnp.int32(1)), (h, first))
        return kept.push(h, end), t, dh, dc  # (1)

    def advance_or_reverse(state):
        kept, t, _, _ = state
        return lax.cond(kept.top()[1] == t, reverse, advance, state)

    dh, dc = step.cotangents_or_zeros(cotangents), step.zero_sums()
    state = kept, steps - jnp.int32(1), dh, dc
    _, _, dh, dc = lax.while_loop(lambda state: state[1] >= 0, advance_or_reverse, state)
    return merge(step.has_cotangent, [*dc, *dh])


class WhileStep(NamedTuple):
    """One step backward, with all of its forward computed again."""

    loop: While
    joint: residuals.Joint
    parts: residuals.Split
    carry_cts: tuple[bool, ...]
    has_cotangent: tuple[bool, ...]  # of the body's operands

    def pull(self, c, h, dh):
        """(2), transposed: dc_t and dh_t, of those that have a cotangent."""
        dc_atoms, dh_atoms = map(present, self.loop.split_body(self.joint.found))
        known = pairs((self.joint.operands, [*c, *h]), (self.joint.cotangents, dh))
        dh, dc = split(self.parts.run(self.parts.backward, known, [*dh_atoms, *dc_atoms]), len(dh))
        return dc, dh

    def cotangents_or_zeros(self, cotangents):
        """The cotangents of the last carry, those that there are, as arrays."""
        triples = zip(cotangents, self.joint.outputs, self.carry_cts, strict=True)
        return [zero_cotangent(v.aval) if ct is None else ct for ct, v, on in triples if on]

    def zero_sums(self):
        dc_atoms, _ = self.loop.split_body(self.joint.found)
        return [zero_sum(atom.aval) for atom in present(dc_atoms)]


def _step(engine, loop, active, wanted):
    """The backward step, for the active operands of the body."""
    engine = engine.inlining()
    consts, carry = loop.split_body(active)
    plan, _, carry_cts, _ = plan_step(engine, loop.body, len(consts), len(carry), active, wanted)
    joint = residuals.trace_joint(engine, plan, carry_cts, (*(False,) * len(consts), *carry_cts))
    parts = residuals.split(joint, joint.operands, (), save_policy.save_nothing)
    return WhileStep(loop, joint, parts, carry_cts, tuple(ct is not None for ct in joint.found))
