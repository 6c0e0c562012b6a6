"""One step of a scan, split into a forward and a backward part. The names and numbers are those of `scan.py`.

The body f and its transpose are traced together once (`residuals.trace_joint`). `residuals.split` divides the equations
between the two parts, and decides what r_t is: which forward values are stacked for the backward part, and which it
computes again from them. The backward part has c and x_t anyway; they are never stacked a second time.
"""

import functools
from dataclasses import dataclass
from typing import Any

from jax import lax

from ...backprop.memory import hoisting, residuals, save_policy
from ...jaxprs.avals import zero_cotangent
from ...jaxprs.graph import live
from ...jaxprs.lists import pairs, present, select, split
from ...jaxprs.types import is_var
from ...jaxprs.views import Scan
from .steps import add_term, plan_step, zero_sum


@dataclass(frozen=True, eq=False)
class ScanStep:
    """The two parts of a step, and which of a scan's operands and results have a cotangent."""

    loop: Scan
    joint: residuals.Joint
    parts: residuals.Split
    carry_cts: tuple[bool, ...]
    ys_cts: tuple[bool, ...]
    has_cotangent: tuple[bool, ...]  # operands
    hoisted: hoisting.Hoisted  # the terms of dc that leave the loop
    stacked: list[Any]  # the residuals that are stacked beside the ys: those that are not a y themselves
    found: tuple[list[Any], ...]  # what the backward part computes, as atoms: dh, dx, for `hoisted`, terms of dc
    backward_equations: list[Any]

    # ------------------------------------------------------------ (1)

    def forward(self, c, h, x):
        """h_t, y_t and the residuals that are not a y."""
        c_vars, h_vars, x_vars = self.loop.split(self.joint.operands)
        known = pairs((c_vars, c), (h_vars, h), (x_vars, x))
        out = self.parts.run(self.parts.forward, known, [*self.joint.outputs, *self.stacked])
        return split(out, len(h), len(self.ys_cts))

    def backward(self, c, x, r, dh, dy):
        """dh_{t-1}, dx_t, the values that must be stacked for hoisted terms, and the other terms of dc_t."""
        c_vars, _, x_vars = self.loop.split(self.joint.operands)
        dh_vars, dy_vars = split(self.joint.cotangents, len(dh))
        known = pairs((c_vars, c), (x_vars, x), (self.parts.saved, r), (dh_vars, dh), (dy_vars, dy))
        out = self.parts.run(self.backward_equations, known, [atom for group in self.found for atom in group])
        *others, terms = self.found
        return split(out, *map(len, others))

    # ------------------------------------------------------------ (2)

    def residuals(self, ys, rs):
        """The stacks of all residuals, from those of the ys and of the others."""
        _, y_atoms = self.loop.split_results(self.joint.outputs)
        stacks = dict(pairs((self.stacked, rs)))
        stacks.update((atom, y) for atom, y in pairs((y_atoms, ys)) if is_var(atom))
        return [stacks[v] for v in self.parts.saved]

    def cotangents_or_zeros(self, cotangents):
        """(dh_T, dys), those that there are, as arrays."""
        dh, dys = self.loop.split_results(cotangents)
        h_atoms, y_atoms = self.loop.split_results(self.joint.outputs)
        dh = _arrays(select(dh, self.carry_cts), select(h_atoms, self.carry_cts), ())
        return dh, _arrays(select(dys, self.ys_cts), select(y_atoms, self.ys_cts), (self.loop.length,))

    # ------------------------------------------------------------ (3)

    def zero_sums(self):
        """The start of dc; None where all terms leave the loop."""
        return [zero_sum(terms[0].aval) if terms else None for terms in self.hoisted.remaining]

    def add_terms(self, dc, terms):
        *terms, _ = split(terms, *map(len, self.hoisted.remaining))
        return [functools.reduce(add_term, each, total) for total, each in zip(dc, terms, strict=True)]

    def add_hoisted(self, dc, xs, rs, dys, hoisted):
        """dc with the terms that left the loop, summed over all steps at once."""
        _, _, x_vars = self.loop.split(self.joint.operands)
        _, dy_vars = split(self.joint.cotangents, sum(self.carry_cts))
        stacks = dict(pairs((x_vars, xs), (self.parts.saved, rs), (dy_vars, dys), (self.hoisted.stacked, hoisted)))
        return [
            functools.reduce(lax.add, [hoisting.total(term, stacks) for term in terms] + present([total]))
            for total, terms in zip(dc, self.hoisted.terms, strict=True)
        ]


def _arrays(cts, atoms, lead):
    """Cotangents of stacks of these atoms, with leading axes `lead`; zeros where one is None."""
    return [zero_cotangent(v.aval, lead) if ct is None else ct for ct, v in zip(cts, atoms, strict=True)]


def split_step(engine, loop, active, wanted):
    """The step of a scan. Raises BudgetError if the residuals of all steps exceed the engine's budget."""
    engine = engine.inlining()
    plan, active, carry_cts, ys_cts = plan_step(engine, loop.body, loop.num_consts, loop.num_carry, active, wanted)
    consts, _, xs = loop.split([False] * len(active))
    joint = residuals.trace_joint(engine, plan, (*carry_cts, *ys_cts), [*consts, *carry_cts, *xs])
    c_vars, _, x_vars = loop.split(joint.operands)
    _, y_atoms = loop.split_results(joint.outputs)
    budget = engine.budget
    choose = save_policy.choose_saved if budget is None else save_policy.choose_within(budget, loop.length)
    ys = [atom for atom in y_atoms if is_var(atom)]  # stacked anyway
    parts = residuals.split(joint, [*c_vars, *x_vars], c_vars, choose, stored=ys)

    dc, dh, dx = map(present, loop.split(joint.found))
    dh_vars, dy_vars = split(joint.cotangents, len(dh))
    extra = budget is None  # stacks beyond the residuals would break a budget
    hoisted = hoisting.choose(parts, dc, (*x_vars, *parts.saved, *dy_vars), dh_vars, engine.hoist, extra)
    found = dh, dx, hoisted.stacked, [term for terms in hoisted.remaining for term in terms]
    return ScanStep(
        loop, joint, parts, carry_cts, ys_cts,
        has_cotangent=tuple(ct is not None for ct in joint.found),
        hoisted=hoisted,
        stacked=[v for v in parts.saved if v not in ys],
        found=found,
        backward_equations=live(parts.backward, [atom for group in found for atom in group]),
    )  # fmt: skip
