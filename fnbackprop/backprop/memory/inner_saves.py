"""What a `jax.checkpoint` policy saves inside a scan, a cond or a jit that the backward evaluates again.

In the forward such an equation has the saved values as further results: of a scan, stacks; of a cond, slots that its
branches share. In the backward it is evaluated from them, without the equations that only they needed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...jaxprs.compat import policy_saves, switch_branch
from ...jaxprs.evaluate import bind, environment, evaluate, interpret, read_atom
from ...jaxprs.graph import live
from ...jaxprs.lists import merge, select, split
from ...jaxprs.types import ClosedJaxpr, Equation, Var, is_var
from ...jaxprs.views import Call, Cond, Scan
from .shared_slots import SharedSlots, Slot


class InnerSaves(NamedTuple):
    """How an equation is evaluated with and from the values that are saved inside it."""

    slots: tuple[Slot, ...]
    saving: Callable  # operands -> (outputs, saved)
    replaying: Callable  # (operands, saved) -> outputs, None for those that are not wanted


def inner_saves(equation: Equation, policy: Callable, wanted: Sequence[bool]) -> InnerSaves | None:
    """None: the equation holds nothing that the policy saves. wanted: the outputs that the backward reads."""
    of_kind = {"scan": _of_scan, "cond": _of_cond, "jit": _of_jit}.get(equation.primitive.name)
    found = None if of_kind is None else of_kind(equation, policy, wanted)
    return found if found is not None and found.slots else None


def _of_jaxpr(closed: ClosedJaxpr, policy: Callable, wanted: Sequence[bool]) -> InnerSaves:
    jaxpr = closed.jaxpr
    whole = {id(e): e for e in jaxpr.eqns if policy_saves(policy, e)}
    known = {v for e in whole.values() for v in (*e.outvars, *_named(e))}
    others = [e for e in jaxpr.eqns if not known.issuperset(e.outvars)]
    again = live(others, select(jaxpr.outvars, wanted))
    reads = {atom for e in again for atom in e.invars if is_var(atom)}.union(filter(is_var, jaxpr.outvars))
    found = {id(e): inner_saves(e, policy, [v in reads for v in e.outvars]) for e in others}
    inner = {key: saves for key, saves in found.items() if saves is not None}
    kept = [e for e in jaxpr.eqns if id(e) in whole or id(e) in inner]
    slots = [inner[id(e)].slots if id(e) in inner else tuple((v.aval, ()) for v in e.outvars) for e in kept]

    def saving(operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        saved: list[Any] = []

        def apply(equation: Equation, values: list[Any]) -> Sequence[Any]:
            if id(equation) in inner:
                outputs, more = inner[id(equation)].saving(values)
            else:
                outputs = bind(equation, values)
                more = outputs if id(equation) in whole else ()
            saved.extend(more)
            return outputs

        return interpret(jaxpr, closed.consts, operands, apply), saved

    def replaying(operands: Sequence[Any], saved: Sequence[Any]) -> list[Any]:
        env, groups = environment(jaxpr, closed.consts, operands), {}
        for equation, group in zip(kept, split(saved, *map(len, slots)), strict=False):
            groups[id(equation)] = group
            if id(equation) in whole:
                env.update(zip(equation.outvars, group, strict=True))
                env.update(zip(_named(equation), group, strict=False))

        def apply(equation: Equation, values: list[Any]) -> Sequence[Any]:
            if id(equation) in inner:
                return inner[id(equation)].replaying(values, groups[id(equation)])
            return bind(equation, values)

        evaluate(again, env, apply)
        return merge(wanted, [read_atom(env, atom) for atom in select(jaxpr.outvars, wanted)])

    return InnerSaves(sum(slots, ()), saving, replaying)


def _named(equation: Equation) -> list[Var]:
    """The operand of a `checkpoint_name`, which is known once its result is."""
    return [v for v in equation.invars if is_var(v)] if equation.primitive.name == "name" else []


def _of_jit(equation: Equation, policy: Callable, wanted: Sequence[bool]) -> InnerSaves:
    return _of_jaxpr(Call.of(equation).body, policy, wanted)


def _of_scan(equation: Equation, policy: Callable, wanted: Sequence[bool]) -> InnerSaves:
    loop = Scan.of(equation)
    carry, ys = loop.split_results(wanted)
    body = _of_jaxpr(loop.body, policy, [True] * len(carry) + ys)

    def saving(operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        c, h, xs = loop.split(operands)

        def step(h, x):
            outputs, saved = body.saving([*c, *h, *x])
            h, y = loop.split_results(outputs)
            return h, (y, saved)

        h, (ys, saved) = loop.run(step, h, xs)
        return [*h, *ys], saved

    def replaying(operands: Sequence[Any], saved: Sequence[Any]) -> list[Any]:
        c, h, xs = loop.split(operands)

        def step(h, rows):
            x, saved = rows
            return loop.split_results(body.replaying([*c, *h, *x], saved))

        h, ys = loop.run(step, h, (xs, list(saved)))
        return [*h, *ys]

    slots = tuple((aval, (loop.length, *lead)) for aval, lead in body.slots)
    return InnerSaves(slots, saving, replaying)


def _of_cond(equation: Equation, policy: Callable, wanted: Sequence[bool]) -> InnerSaves | None:
    cond = Cond.of(equation)
    if cond.platforms is not None:
        return None
    branches = [_of_jaxpr(branch, policy, wanted) for branch in cond.branches]
    shared = SharedSlots.of([branch.slots for branch in branches])

    def saving(operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        def in_branch(i):
            def run(*operands):
                outputs, saved = branches[i].saving(operands)
                return outputs, shared.fill(i, saved)

            return run

        index, operands = cond.split(operands)
        return switch_branch(index, [in_branch(i) for i in range(len(branches))], None, *operands)

    def replaying(operands: Sequence[Any], saved: Sequence[Any]) -> list[Any]:
        def in_branch(i):
            return lambda saved, *operands: branches[i].replaying(operands, shared.own(i, saved))

        index, operands = cond.split(operands)
        return switch_branch(index, [in_branch(i) for i in range(len(branches))], None, list(saved), *operands)

    return InnerSaves(shared.slots, saving, replaying)
