"""Loops in an audit: the states of every iteration, and a walk of the body for some of them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from fnbackprop.jaxprs.avals import aval_of, is_inexact, zeros_like_aval
from fnbackprop.jaxprs.compat import quick_compilation, scan_groups
from fnbackprop.jaxprs.evaluate import as_function, source_line

ITERATIONS = 4  # of a loop are walked: the last, the first, and some between
MOST_ITERATIONS = 256  # when looking for what is wrong
MOST_STATES = 1 << 30  # bytes of a while loop's states


def chosen(length: int, thorough: bool) -> list[int]:
    """The iterations to walk, in the order of the backward walk."""
    count = min(length, MOST_ITERATIONS if thorough else ITERATIONS)
    return sorted({int(i) for i in np.linspace(0, length - 1, count)}, reverse=True) if length else []


def scan(audit: Any, visit: Any, cts: list[Any]) -> list[Any]:
    """Cotangents of a scan's operands; its body is walked at some iterations."""
    equation, operands = visit.step.equation, visit.operands
    groups, params = scan_groups(equation), equation.params
    first = groups.consts + groups.carry
    consts, xs = operands[: groups.consts], operands[first:]
    carries, carry_cts, found = _scan_states(params, groups)(operands, cts)
    plan = _body_plan(audit.engine, params["jaxpr"], visit.step.active, groups.consts, groups.carry)
    order = range(params["length"])
    steps = [(order[::-1] if params["reverse"] else order)[i] for i in chosen(params["length"], audit.thorough)]
    for step in steps:
        at = [None if ct is None else ct[step] for ct in (*carry_cts, *cts[groups.carry :])]
        body = [*consts, *(c[step] for c in carries), *(x[step] for x in xs)]
        _walk_body(audit, plan, body, at, visit.location.inside(f"scan[{step}]"))
    return [ct if on else None for ct, on in zip(found, visit.step.active, strict=True)]


def _walk_body(audit: Any, plan: Any, operands: list[Any], cts: list[Any], location: Any) -> None:
    _, visits = audit.forward(plan, operands, location)
    audit.backward(plan, visits, cts)


def _body_plan(engine: Any, body: Any, active: Sequence[bool], consts: int, count: int) -> Any:
    """The plan of a loop's body, in which all that depends on a differentiated operand has a cotangent."""
    active = list(active)
    while True:
        outputs = engine.active_outputs(body, tuple(active))
        grown = [a or b for a, b in zip(active[consts : consts + count], outputs, strict=False)]
        if grown == active[consts : consts + count]:
            return engine.plan(body, tuple(active), tuple(outputs))
        active[consts : consts + count] = grown


def _scan_states(params: Any, groups: Any) -> Any:
    """(operands, cts) -> the carries before each iteration, the cotangents after each, and those of the operands."""
    body = as_function(params["jaxpr"])
    first = groups.consts + groups.carry
    loop = {"length": params["length"]}

    def states(operands, cts):
        consts, carry, xs = operands[: groups.consts], operands[groups.consts : first], operands[first:]

        def ahead(carry, x):
            out = body(*consts, *carry, *x)
            return out[: groups.carry], carry

        _, carries = lax.scan(ahead, list(carry), list(xs), reverse=params["reverse"], **loop)

        def back(state, scanned):
            dcarry, dconsts = state
            carry, x, dys = scanned
            found = _pull(body, [*consts, *carry, *x], [*dcarry, *dys])
            dconsts = [None if old is None else old + new for old, new in zip(dconsts, found, strict=False)]
            return (found[groups.consts : first], dconsts), (dcarry, found[first:])

        zeros = [zeros_like_aval(aval_of(c)) if is_inexact(aval_of(c)) else None for c in consts]
        scanned = (carries, list(xs), cts[groups.carry :])
        (dcarry, dconsts), (carry_cts, dxs) = lax.scan(
            back, (cts[: groups.carry], zeros), scanned, reverse=not params["reverse"], **loop
        )
        return carries, carry_cts, [*dconsts, *dcarry, *dxs]

    return jax.jit(states, compiler_options=quick_compilation())


def _pull(body: Any, operands: list[Any], cts: list[Any]) -> list[Any]:
    """JAX's cotangents of the floating operands; None for the others."""
    floating = [is_inexact(aval_of(x)) for x in operands]

    def function(*moving):
        given = iter(moving)
        out = body(*(next(given) if on else x for x, on in zip(operands, floating, strict=True)))
        return [y for y in out if is_inexact(aval_of(y))]

    _, pull = jax.vjp(function, *(x for x, on in zip(operands, floating, strict=True) if on))
    found = iter(pull([ct for ct in cts if ct is not None]))
    return [next(found) if on else None for on in floating]


def while_(audit: Any, visit: Any, cts: list[Any]) -> list[Any]:
    """Cotangents of a while loop's operands, its iterations taken one by one."""
    equation, operands, params = visit.step.equation, visit.operands, visit.step.equation.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    cond_consts, consts, carry = operands[:first], operands[first:second], operands[second:]
    test, body = (jax.jit(as_function(params[name])) for name in ("cond_jaxpr", "body_jaxpr"))
    states, each = [], sum(x.nbytes for x in carry if hasattr(x, "nbytes"))
    while bool(test(*cond_consts, *carry)[0]):
        states.append(carry)
        carry = body(*consts, *carry)
        if len(states) * each > MOST_STATES:
            where = source_line(equation)
            audit.notes[f"the while loop at {where} is too long to be walked: no equation before it was asked"] = None
            return [None] * len(operands)
    plan = _body_plan(audit.engine, params["body_jaxpr"], visit.step.active[first:], second - first, len(carry))
    pull = jax.jit(lambda operands, cts: _pull(as_function(params["body_jaxpr"]), operands, cts))
    steps, dconsts, dcarry = set(chosen(len(states), audit.thorough)), [None] * len(consts), list(cts)
    for step in reversed(range(len(states))):
        at = [*consts, *states[step]]
        if step in steps:
            _walk_body(audit, plan, at, dcarry, visit.location.inside(f"while[{step}]"))
        found = pull(at, dcarry)
        dconsts = [new if old is None else old + new for old, new in zip(dconsts, found, strict=False)]
        dcarry = found[len(consts) :]
    pairs = zip([*dconsts, *dcarry], visit.step.active[first:], strict=True)
    return [None] * first + [ct if on else None for ct, on in pairs]


LOOPS = {"scan": scan, "while": while_}
