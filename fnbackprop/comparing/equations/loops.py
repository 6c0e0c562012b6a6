"""The bodies of loops in a walk: the states of every iteration, and a walk of the body at some of them.

Each function takes the walker, the visit and the cotangents of the outputs, and returns those of the operands.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.engine import Engine, Plan
from fnbackprop.backprop.pullback import vjp
from fnbackprop.jaxprs.avals import aval_of, is_inexact, zeros_like_aval
from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.evaluate import as_function
from fnbackprop.jaxprs.graph import fixpoint
from fnbackprop.jaxprs.lists import merge, present, select, split
from fnbackprop.jaxprs.views import Scan, While

from ..gradient_sources import automatic_vjp, in_primal_types
from .walk import Location, Visit, Walker

ITERATIONS = 4  # of a loop are walked: the last, the first, and some between
MOST_ITERATIONS = 256  # in a thorough walk
MOST_STATES = 1 << 30  # bytes of a while loop's states


def chosen(length: int, thorough: bool) -> list[int]:
    """The iterations to walk, in the order of the backward walk."""
    count = min(length, MOST_ITERATIONS if thorough else ITERATIONS)
    return sorted({int(i) for i in np.linspace(0, length - 1, count)}, reverse=True) if length else []


def walk_scan(walker: Walker, visit: Visit, cts: list[Any]) -> list[Any]:
    loop, active = Scan.of(visit.equation), visit.step.active
    consts, _, xs = loop.split(visit.operands)
    _, dys = loop.split_results(cts)
    states = jax.jit(partial(_scan_states, loop), compiler_options=quick_compilation())
    carries, carry_cts, found = states(visit.operands, cts)
    plan = _body_plan(walker.engine, loop.body, active, loop.num_consts, loop.num_carry)
    order = range(loop.length)[::-1] if loop.reverse else range(loop.length)
    for step in (order[i] for i in chosen(loop.length, walker.thorough)):
        at = [None if ct is None else ct[step] for ct in (*carry_cts, *dys)]
        body = [*consts, *(c[step] for c in carries), *(x[step] for x in xs)]
        _walk_body(walker, plan, body, at, visit.location.inside(f"scan[{step}]"))
    return [ct if on else None for ct, on in zip(found, active, strict=True)]


def _walk_body(walker: Walker, plan: Plan, operands: list[Any], cts: list[Any], location: Location) -> None:
    _, visits = walker.forward(plan, operands, location)
    walker.backward(plan, visits, cts)


def _body_plan(engine: Engine, body: Any, active: Sequence[bool], consts: int, count: int) -> Plan:
    """The plan of a loop's body, in which all that depends on a differentiated operand has a cotangent."""
    before, carry, after = split(active, consts, count)

    def outputs(carry: Sequence[bool]) -> tuple[bool, ...]:
        return tuple(engine.active_outputs(body, (*before, *carry, *after)))

    carry = fixpoint(lambda carry: outputs(carry)[:count], carry)
    return engine.plan(body, (*before, *carry, *after), outputs(carry))


def _scan_states(loop: Scan, operands: list[Any], cts: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The carries before each iteration, the cotangents of the carry after each, and those of the operands."""
    body = as_function(loop.body)
    consts, carry, xs = loop.split(operands)
    dcarry, dys = loop.split_results(cts)

    def ahead(carry, x):
        carry_out, _ = loop.split_results(body(*consts, *carry, *x))
        return carry_out, carry

    def back(state, scanned):
        dcarry, dconsts = state
        carry, x, dy = scanned
        more, dcarry_in, dx = loop.split(_pull(body, [*consts, *carry, *x], [*dcarry, *dy]))
        dconsts = [None if old is None else old + new for old, new in zip(dconsts, more, strict=True)]
        return (dcarry_in, dconsts), (dcarry, dx)

    _, carries = loop.run(ahead, carry, xs)
    zeros = [zeros_like_aval(aval_of(c)) if is_inexact(aval_of(c)) else None for c in consts]
    (dcarry, dconsts), (carry_cts, dxs) = loop.run(back, (dcarry, zeros), (carries, xs, dys), backward=True)
    return carries, carry_cts, [*dconsts, *dcarry, *dxs]


def _pull(body: Callable, operands: list[Any], cts: list[Any]) -> list[Any]:
    """JAX's cotangents of the floating operands, or ours where JAX refuses; None for the others."""
    floating = [is_inexact(aval_of(x)) for x in operands]
    others = [x for x, on in zip(operands, floating, strict=True) if not on]

    def function(*moving):
        return [y for y in body(*merge(floating, moving, others)) if is_inexact(aval_of(y))]

    moving, given = select(operands, floating), present(cts)
    try:
        found = automatic_vjp(function, *moving)[1](given)
    except Exception:  # something in the body has no gradient in JAX: as in `Audit`, our cotangents travel on
        found = vjp(function, *moving)[1](given)
    return merge(floating, in_primal_types(found, moving))


def walk_while(walker: Walker, visit: Visit, cts: list[Any]) -> list[Any]:
    """Its iterations are taken one by one."""
    loop, active = While.of(visit.equation), visit.step.active
    _, consts, carry = loop.split(visit.operands)
    states = _while_states(loop, visit.operands)
    if states is None:
        note = f"the while loop at {visit.location.line} is too long to be walked: no equation before it was checked"
        walker.notes[note] = None
        return [None] * len(visit.operands)
    first = loop.num_condition_consts
    plan = _body_plan(walker.engine, loop.body, active[first:], loop.num_body_consts, len(carry))
    pull = jax.jit(partial(_pull, as_function(loop.body)))
    steps, dconsts, dcarry = set(chosen(len(states), walker.thorough)), [None] * len(consts), list(cts)
    for step in reversed(range(len(states))):
        carry, flags = states[step]
        at, dafter = [*consts, *carry], [ct if ct is None else _where(flags, ct, jnp.zeros_like(ct)) for ct in dcarry]
        if step in steps:
            _walk_body(walker, plan, at, dafter, visit.location.inside(f"while[{step}]"))
        more, dbefore = loop.split_body(pull(at, dafter))
        dcarry = [new if new is None else _where(flags, new, old) for new, old in zip(dbefore, dcarry, strict=True)]
        dconsts = [new if old is None else old + new for old, new in zip(dconsts, more, strict=True)]
    pairs = zip([*dconsts, *dcarry], active[first:], strict=True)
    return [None] * first + [ct if on else None for ct, on in pairs]


def _while_states(loop: While, operands: list[Any]) -> list[tuple[list[Any], np.ndarray]] | None:
    """The carry before each iteration, and which examples it is for; None if they are more than `MOST_STATES`."""
    condition_consts, consts, carry = loop.split(operands)
    test, body = jax.jit(as_function(loop.condition)), jax.jit(as_function(loop.body))
    states, each = [], sum(x.nbytes for x in carry if hasattr(x, "nbytes"))
    while np.any(flags := np.asarray(test(*condition_consts, *carry)[0])):
        states.append((carry, flags))
        carry = [_where(flags, *pair) for pair in zip(body(*consts, *carry), carry, strict=True)]
        if len(states) * each > MOST_STATES:
            return None
    return states


def _where(flags: np.ndarray, new: Any, old: Any) -> Any:
    """What a step of a while loop changes; of a batched one, for the examples that have not finished."""
    return jnp.where(While.flags_like(flags, new), new, old) if flags.ndim else new


def forward_iterations(walker: Walker, visit: Visit) -> Iterator[list[Visit]]:
    """The visits of a loop's body at some of its iterations, the last first, without cotangents; none of other
    equations."""
    if visit.name not in LOOPS:
        return
    plan, iterations = (_scan_iterations if visit.name == "scan" else _while_iterations)(walker, visit)
    for step, operands in iterations:
        yield walker.forward(plan, operands, visit.location.inside(f"{visit.name}[{step}]"))[1]


def _scan_iterations(walker: Walker, visit: Visit) -> tuple[Plan, Iterator[tuple[int, list[Any]]]]:
    """The plan of a scan's body, and the number and the operands of some of its iterations."""
    loop = Scan.of(visit.equation)
    consts, carry, xs = loop.split(visit.operands)
    body = as_function(loop.body)

    def ahead(carry: Any, x: Any) -> tuple[Any, Any]:
        return loop.split_results(body(*consts, *carry, *x))[0], carry

    carries = jax.jit(partial(loop.run, ahead))(carry, xs)[1]
    order = range(loop.length)[::-1] if loop.reverse else range(loop.length)
    steps = [order[i] for i in chosen(loop.length, walker.thorough)]
    plan = _body_plan(walker.engine, loop.body, visit.step.active, loop.num_consts, loop.num_carry)
    return plan, ((step, [*consts, *(c[step] for c in carries), *(x[step] for x in xs)]) for step in steps)


def _while_iterations(walker: Walker, visit: Visit) -> tuple[Plan, Iterator[tuple[int, list[Any]]]]:
    """As `_scan_iterations`, of a while loop."""
    loop = While.of(visit.equation)
    _, consts, carry = loop.split(visit.operands)
    states = _while_states(loop, visit.operands) or []
    active = visit.step.active[loop.num_condition_consts :]
    plan = _body_plan(walker.engine, loop.body, active, loop.num_body_consts, len(carry))
    return plan, ((step, [*consts, *states[step][0]]) for step in chosen(len(states), walker.thorough))


LOOPS = {"scan": walk_scan, "while": walk_while}
