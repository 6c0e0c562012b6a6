"""Calls of a jaxpr that are walked where they stand. This file is the worked example of a structured rule.

An ordinary rule turns the cotangents of one equation's outputs into those of its operands. A primitive that holds a
jaxpr needs a *structured* rule: one that hands the jaxpr to the engine. `call_vjp` below is the simplest one;
`custom_vmap_vjp` shows one that does work of its own. Where to look next: `rules/calls/cond.py` (several jaxprs),
`rules/loops/scan.py` (a jaxpr that is applied many times).

1.  `@structured_rule("my_call", activity=call_activity)` registers the rule for the primitive named "my_call".
2.  `activity(engine, equation, active)` returns a flag for each output: whether it depends on an operand whose flag in
    `active` is set. Without it all outputs are taken to depend on any of them, which is right but may do useless work.
3.  `rule(engine, equation, active, wanted)` is called once, before anything runs. `active` has a flag for each operand:
    whether it depends on what is differentiated. `wanted` has one for each output: whether it may have a cotangent.
4.  The rule returns a `Structured(forward, backward, has_cotangent)`:
    `forward(*operands) -> (outputs, residuals)`: runs in the place of the equation. The residuals are any pytree of
    arrays, and reach the backward as they are;
    `backward(residuals, cotangents) -> cotangents of the operands`, with one entry for each output and each operand.
    None stands for a cotangent that is zero: `engine.instantiate(ct, aval)` makes an array of it where one is needed;
    `has_cotangent` has a flag for each operand: whether `backward` may return anything but None for it.
5.  `engine.plan(jaxpr, active, wanted)` prepares an inner jaxpr; `engine.forward(plan, operands)` evaluates it and
    `engine.backward(plan, residuals, cotangents)` pulls cotangents back through it. They are built from the rules of
    the inner equations, so they nest.
"""

import jax
from jax.experimental.scheduling_groups import xla_metadata_call

from ...backprop.planning_notes import cached_plan
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.compat import compiler_metadata
from ...jaxprs.evaluate import bind
from ...jaxprs.views import Call


def call_activity(engine, equation, active):
    """The outputs that depend on active operands, according to the body."""
    return engine.active_outputs(Call.of(equation).body, active)


@structured_rule(
    "closed_call", "call", "eval_jaxpr", "composite", "custom_partitioning", "remat_opt", activity=call_activity
)
def call_vjp(engine, equation, active, wanted):
    """y = f(x), dx = fᵀ(dy): the body's own equations, walked forward and backward.

    A composite is its decomposition; partitioning is left to the compiler. remat_opt is the forward of a custom_vjp
    (optimize_remat=True), met when that forward is differentiated again."""
    return walk_inline(engine, Call.of(equation).body, active, wanted)


def walked(engine, closed, active, wanted):
    """Forward and backward of a closed jaxpr, emitted where it is called."""
    plan = engine.plan(closed, active, wanted)

    def forward(*operands):
        return engine.forward(plan, operands)

    def backward(residuals, cotangents):
        return engine.backward(plan, residuals, cotangents)

    return Structured(forward, backward, plan.has_cotangent)


walk_inline = cached_plan(walked)  # equal calls, such as the layers of a network, share one plan


def in_scope(name, inner):
    """The same forward and backward, under a name in profiles."""

    def forward(*operands):
        with jax.named_scope(name):
            return inner.forward(*operands)

    def backward(residuals, cotangents):
        with jax.named_scope(name):
            return inner.backward(residuals, cotangents)

    return inner._replace(forward=forward, backward=backward)


@structured_rule("xla_metadata_call", activity=call_activity)
def xla_metadata_call_vjp(engine, equation, active, wanted):
    """What the call tells the compiler (not to inline it, its scheduling group) holds for forward and backward."""
    metadata = tuple(tuple(part.items()) for part in compiler_metadata(equation))
    return _tagged(engine, Call.of(equation).body, active, wanted, metadata)


@cached_plan
def _tagged(engine, closed, active, wanted, metadata):
    inner = walk_inline(engine, closed, active, wanted)
    forward, backward = (xla_metadata_call(**dict(part)) for part in metadata)
    return inner._replace(forward=forward(inner.forward), backward=backward(inner.backward))


@structured_rule("custom_vmap_call", activity=call_activity)
def custom_vmap_vjp(engine, equation, active, wanted):
    """The forward binds the primitive itself, so that vmap finds the user's batching rule. Only the operands are saved:
    the backward evaluates the body again."""
    plan = engine.plan(Call.of(equation).body, active, wanted)

    def forward(*operands):
        return bind(equation, operands), operands

    def backward(operands, cotangents):
        _, residuals = engine.forward(plan, operands)
        return engine.backward(plan, residuals, cotangents)

    return Structured(forward, backward, plan.has_cotangent)
