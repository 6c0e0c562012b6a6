"""Loops: scan. The backward of a scan is a scan in the other direction.

The body's forward and backward are traced together once; `residuals.split` decides what of the forward is stacked for
the backward and what is computed again from it. Operands that do not change in the loop, and scanned operands, are
handed over as they are and never stacked a second time.
"""

import functools
import itertools
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from jax import lax

from ...backprop.memory import hoisting, residual_report, residuals, save_policy
from ...backprop.precision import wide_dtype
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.avals import zeros_like_aval
from ...jaxprs.compat import scan_groups
from ...jaxprs.evaluate import source_line
from ...jaxprs.graph import live
from ...jaxprs.types import is_effect_free, is_var
from . import segmented_scan


class Groups(NamedTuple):
    """A scan's operands and results by kind: loop-invariant, carried, scanned over."""

    consts: int
    carry: int

    def operands(self, flat):
        """(consts, carry, xs) of a flat list of operands."""
        first = self.consts + self.carry
        return list(flat[: self.consts]), list(flat[self.consts : first]), list(flat[first:])

    def results(self, flat):
        """(carry, ys) of a flat list of results."""
        return list(flat[: self.carry]), list(flat[self.carry :])


def scan_activity(engine, equation, active):
    """A carry is active if a differentiated operand reaches it in any number of steps."""
    groups = Groups(*scan_groups(equation))
    return _active_outputs(engine, equation.params["jaxpr"], groups, active)[1]


@lru_cache(maxsize=4096)
def _active_outputs(engine, body, groups, active):
    """The fixpoint: (active operands of the body, active results)."""
    consts, carry, xs = groups.operands(active)
    while True:
        outputs = engine.active_outputs(body, (*consts, *carry, *xs))
        grown = [a or b for a, b in zip(carry, outputs[: groups.carry], strict=True)]
        if grown == carry:
            return (*consts, *carry, *xs), (*carry, *outputs[groups.carry :])
        carry = grown


@structured_rule("scan", activity=scan_activity)
def scan_vjp(engine, equation, active, wanted):
    """Forward: the same scan, with the residuals as further outputs. Backward: a scan in reverse."""
    params = equation.params
    groups = Groups(*scan_groups(equation))
    loop = (params["length"], params["reverse"], params["unroll"])
    return _scan(engine, params["jaxpr"], groups, loop, active, wanted)


@lru_cache(maxsize=4096)
def _scan(engine, body, groups, loop, active, wanted):
    length, reverse, unroll = loop
    try:
        parts = _scan_body(engine, body, groups, length, active, wanted)
    except save_policy.BudgetError as error:
        return _by_segments(engine, segmented_scan.Loop(body, groups, length, reverse, unroll), active, wanted, error)
    return Structured(
        lambda *operands: _forward(parts, loop, operands),
        lambda saved, cts: _backward(parts, loop, saved, cts),
        parts.has_cotangent,
        lambda where: _describe(parts, length, where),
    )


def _by_segments(engine, loop, active, wanted, error):
    """The scan by segments, which run again; raises BudgetError if no number of them keeps the budget."""
    body, groups, length = loop.body, loop.groups, loop.length
    if length < 2 or not is_effect_free(body):
        raise error
    active, outputs_active = _active_outputs(engine, body, groups, active)
    wanted = tuple(w and a for w, a in zip(wanted, outputs_active, strict=True))
    carry_cts, plan = _wanted_carry(engine.inlining(), body, groups, active, wanted)
    wanted = (*carry_cts, *wanted[groups.carry :])
    _, carry, xs = groups.operands(body.jaxpr.invars)
    sums, _, dxs = groups.operands(
        [v if on else None for v, on in zip(body.jaxpr.invars, plan.has_cotangent, strict=True)]
    )
    ys = [v for v, on in zip(body.jaxpr.outvars, wanted, strict=True) if on][sum(carry_cts) :]
    cost = segmented_scan.Cost(
        carry=save_policy.total_bytes(carry),
        stacked=error.least,
        scanned=save_policy.total_bytes([*xs, *ys, *filter(None, dxs)]),
        sums=save_policy.total_bytes(filter(None, sums)),
    )
    budget = engine.budget
    allowed = budget * error.everything * length if budget <= 1 else budget
    count = cost.segments(length, allowed)
    if count is None:
        raise save_policy.budget_error(budget, length, cost.least(length), error.least, error.everything)
    inner = replace(engine, budget=allowed - cost.of_level(length, count))

    def pulled(steps):
        return _scan(inner, body, groups, (steps, loop.reverse, loop.unroll), active, wanted)

    return segmented_scan.segmented(loop, count, carry_cts, pulled)


# ---------------------------------------------------------------- the body, forward and backward together


class ScanBody(NamedTuple):
    """A scan body, split into forward and backward, and which of its carries and ys have a cotangent."""

    joint: residuals.Joint
    split: residuals.Split
    groups: Groups
    carry_cts: tuple[bool, ...]
    ys_cts: tuple[bool, ...]
    has_cotangent: tuple[bool, ...]
    hoisted: hoisting.Hoisted


def _wanted_carry(engine, body, groups, active, wanted):
    """The fixpoint of the carries that get a cotangent, and the body's plan."""
    carry, ys = groups.results(wanted)
    while True:
        plan = engine.plan(body, active, (*carry, *ys))
        has_cotangent = groups.operands(plan.has_cotangent)[1]
        grown = [a or b for a, b in zip(carry, has_cotangent, strict=True)]
        if grown == carry:
            return tuple(carry), plan
        carry = grown


def _scan_body(engine, body, groups, length, active, wanted):
    engine = engine.inlining()
    active, outputs_active = _active_outputs(engine, body, groups, active)
    wanted = tuple(w and a for w, a in zip(wanted, outputs_active, strict=True))
    carry_cts, plan = _wanted_carry(engine, body, groups, active, wanted)
    ys_cts = wanted[groups.carry :]
    needed = [False] * groups.consts + [*carry_cts] + [False] * (len(active) - groups.consts - groups.carry)
    joint = residuals.trace_joint(engine, plan, (*carry_cts, *ys_cts), needed)
    consts, _, xs = groups.operands(joint.operands)
    choose = save_policy.choose_saved if engine.budget is None else save_policy.choose_within(engine.budget, length)
    ys = filter(is_var, joint.outputs[groups.carry :])  # stacked already
    parts = residuals.split(joint, [*consts, *xs], consts, choose, held=ys)
    has_cotangent = tuple(a and ct is not None for a, ct in zip(active, joint.found, strict=True))
    sums = [ct for ct in groups.operands(joint.found)[0] if ct is not None]
    dcarry, dys = joint.cotangents[: sum(carry_cts)], joint.cotangents[sum(carry_cts) :]
    extra = engine.budget is None  # stacks beyond the residuals would break a budget
    hoisted = hoisting.choose(parts, sums, (*xs, *parts.saved, *dys), dcarry, engine.hoist, extra)
    return ScanBody(joint, parts, groups, carry_cts, ys_cts, has_cotangent, hoisted)


# ---------------------------------------------------------------- the two scans


def _forward(body, loop, operands):
    """The user's scan with the residuals stacked beside its own outputs."""
    length, reverse, unroll = loop
    joint, split, groups = body.joint, body.split, body.groups
    consts, carry, xs = groups.operands(operands)
    const_vars, carry_vars, x_vars = groups.operands(joint.operands)

    ys_atoms = joint.outputs[groups.carry :]
    returned = [atom for atom in ys_atoms if is_var(atom)]
    fresh = [v for v in split.saved if v not in returned]  # a residual that is an output is not stacked twice

    def step(carry, xs):
        pairs = zip((*const_vars, *carry_vars, *x_vars), (*consts, *carry, *xs), strict=True)
        return groups.results(split.run(split.forward, pairs, [*joint.outputs, *fresh]))

    carry, stacks = lax.scan(step, carry, xs, length=length, reverse=reverse, unroll=unroll)
    ys = stacks[: len(ys_atoms)]
    by_variable = dict(zip(fresh, stacks[len(ys) :], strict=True))
    by_variable.update((atom, y) for atom, y in zip(ys_atoms, ys, strict=True) if is_var(atom))
    return [*carry, *ys], (consts, xs, [by_variable[v] for v in split.saved])


def _backward(body, loop, saved, cotangents):
    """The reverse scan: carry cotangents travel back; those of constants add up; those of xs are stacked."""
    length, reverse, unroll = loop
    joint, split, groups = body.joint, body.split, body.groups
    consts, xs, stacked = saved
    const_vars, _, x_vars = groups.operands(joint.operands)
    dcarry_atoms, dxs_atoms = ([d for d in part if d is not None] for part in groups.operands(joint.found)[1:])
    hoisted = body.hoisted
    dcarry, dys = _present_cotangents(body, length, cotangents)
    sums = [zeros_like_aval(accumulator(terms[0].aval)) if terms else None for terms in hoisted.remaining]
    outputs = [*dcarry_atoms, *dxs_atoms, *hoisted.stacked, *(d for terms in hoisted.remaining for d in terms)]
    equations = live(split.backward, outputs)
    cuts = list(itertools.accumulate((len(dcarry_atoms), len(dxs_atoms), len(hoisted.stacked))))

    def step(state, scanned):
        dcarry, sums = state
        xs, stacked, dys = scanned
        variables = (*const_vars, *x_vars, *split.saved, *joint.cotangents)
        pairs = zip(variables, (*consts, *xs, *stacked, *dcarry, *dys), strict=True)
        out = split.run(equations, pairs, outputs)
        terms = iter(out[cuts[2] :])
        pairs = zip(sums, hoisted.remaining, strict=True)
        sums = [_add_terms(total, [next(terms) for _ in atoms]) for total, atoms in pairs]
        return (out[: cuts[0]], sums), (out[cuts[0] : cuts[1]], out[cuts[1] : cuts[2]])

    (dcarry, sums), (dxs, products) = lax.scan(
        step, (dcarry, sums), (xs, stacked, dys), length=length, reverse=not reverse, unroll=unroll
    )
    variables = (*x_vars, *split.saved, *joint.cotangents[len(dcarry) :], *hoisted.stacked)
    stacks = dict(zip(variables, (*xs, *stacked, *dys, *products), strict=True))
    dconsts = [
        functools.reduce(lax.add, [hoisting.total(term, stacks) for term in terms] + ([] if s is None else [s]))
        for s, terms in zip(sums, hoisted.terms, strict=True)
    ]
    arrays = iter((*dconsts, *dcarry, *dxs))
    return [None if d is None else next(arrays) for d in joint.found]


def _add_terms(total, terms):
    """A sum over time with one step's terms added; None where all terms are hoisted."""
    for term in terms:
        total = lax.add(total, lax.convert_element_type(term, total.dtype))
    return total


def _present_cotangents(body, length, cotangents):
    """The cotangents of the carries and of the ys that have one, as arrays."""
    groups, avals = body.groups, [atom.aval for atom in body.joint.outputs]
    present = [*body.carry_cts, *body.ys_cts]
    lead = [()] * groups.carry + [(length,)] * len(body.ys_cts)
    cts = [
        zeros_like_aval(aval, first) if ct is None else ct
        for ct, aval, first, on in zip(cotangents, avals, lead, present, strict=True)
        if on
    ]
    return cts[: sum(body.carry_cts)], cts[sum(body.carry_cts) :]


def accumulator(aval):
    """Sums over time of low precision are kept in float32; the driver casts the result back."""
    return aval.update(dtype=wide_dtype(aval.dtype))


def _describe(body, length, where):
    """Rows for `fb.residuals`: what is stacked, computed again, and taken out of the loop."""
    equations = body.joint.closed.jaxpr.eqns
    producers = {v: e for e in equations for v in e.outvars}
    returned = {atom for atom in body.joint.outputs if is_var(atom)}
    rows = []
    for var in body.split.saved:
        why = "an output already" if var in returned else "fewest bytes from which the rest is cheap"
        why = why if var in producers else "the carry"
        rows.append(residual_report.saved_row("stacked", var, length, producers, why))
    rows += residual_report.again_rows(body.split.again, where)
    for term in (term for terms in body.hoisted.terms for term in terms):
        shapes = " · ".join(v.aval.str_short(short_dtypes=True) for v in term.reads())
        source = term.equation or producers.get(term.leaf)
        line = source_line(source) if source else where
        what = term.equation.primitive.name if term.equation else "sum"
        rows.append(residual_report.Residual("hoisted", shapes, 0, line, f"one {what} over {length} steps"))
    return rows
