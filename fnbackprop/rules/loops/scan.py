"""scan. Its backward is a scan in the opposite direction.

The carry h starts as h_0. With the constants c and the rows x_t, the forward is, for t = 1 ... T,

    (1)  h_t, y_t, r_t = f(c, h_{t-1}, x_t)                      r_t: the residuals
    (2)  y, r = the y_t and the r_t, stacked

dh starts as dh_T, the cotangent of the last carry. With the rows dy_t, the backward is, for t = T ... 1,

    (2)  dy_t, r_t = rows of dy and r
    (1)  dh_{t-1}, dx_t, dc_t = fᵀ(c, x_t, r_t; dh_t, dy_t)
    (3)  dx = the dx_t, stacked;  dc = Σ_t dc_t

where fᵀ is the backward pass of f: from f's operands and its results' cotangents to its operands' cotangents.

Terms of dc that are products leave the loop, and become one contraction over all steps (`hoisting.py`). How one step is
split into f and fᵀ, and what r_t is: `scan_step.py`.
"""

from itertools import zip_longest

from ...backprop.memory import residual_report, save_policy
from ...backprop.planning_notes import cached_plan, note
from ...backprop.registry import Structured, structured_rule
from ...jaxprs.evaluate import source_line
from ...jaxprs.graph import producers
from ...jaxprs.lists import merge, select
from ...jaxprs.types import is_var
from ...jaxprs.views import Scan
from . import segmented_scan
from .decisions import decided_carries_of_scan, warn_of_decisions
from .scan_step import split_step
from .steps import active_flags


def scan_activity(engine, equation, active):
    """A carry is active if a differentiated operand reaches it in any number of steps, be it by decisions alone."""
    loop = Scan.of(equation)
    decided = decided_carries_of_scan(engine, loop, active)
    smooth = active_flags(engine, loop.body, loop.num_consts, loop.num_carry, active)[1]
    return tuple(a or b for a, b in zip_longest(smooth, decided, fillvalue=False))


@structured_rule("scan", activity=scan_activity)
def scan_vjp(engine, equation, active, wanted):
    """h_t, y_t = f(c, h_{t-1}, x_t): the same scan with the residuals as further outputs, and a scan in reverse."""
    loop = Scan.of(equation)
    if any(select(wanted[: loop.num_carry], decided_carries_of_scan(engine, loop, active))):
        note(warn_of_decisions, equation)
    return _scan(engine, loop, active, wanted)


@cached_plan
def _scan(engine, loop, active, wanted):
    try:
        step = split_step(engine, loop, active, wanted)
    except save_policy.BudgetError as error:
        too_large = error
    else:
        return _whole(loop, step)
    # outside of `except`: an error of its own has no other error as its context
    return segmented_scan.by_segments(engine, loop, active, wanted, too_large, _scan)


def _whole(loop, step):
    """A scan whose steps are one loop, forward and backward."""
    return Structured(
        lambda *operands: _forward(loop, step, operands),
        lambda saved, cotangents: _backward(loop, step, saved, cotangents),
        step.has_cotangent,
        lambda where: _describe(loop, step, where),
    )


def _forward(loop, step, operands):
    c, h, xs = loop.split(operands)

    def forward(h, x):
        h, y, r = step.forward(c, h, x)  # (1)
        return h, (y, r)

    h, (ys, rs) = loop.run(forward, h, xs)  # (2)
    return [*h, *ys], (c, xs, step.residuals(ys, rs))


def _backward(loop, step, saved, cotangents):
    c, xs, rs = saved
    dh, dys = step.cotangents_or_zeros(cotangents)

    def backward(state, rows):
        dh, dc = state
        x, r, dy = rows  # (2)
        dh, dx, hoisted, terms = step.backward(c, x, r, dh, dy)  # (1)
        return (dh, step.add_terms(dc, terms)), (dx, hoisted)  # (3)

    start = dh, step.zero_sums()
    (dh, dc), (dxs, hoisted) = loop.run(backward, start, (xs, rs, dys), backward=True)
    dc = step.add_hoisted(dc, xs, rs, dys, hoisted)  # (3)
    return merge(step.has_cotangent, [*dc, *dh, *dxs])


def _describe(loop, step, where):
    """Rows for `fb.residuals`: what is stacked, computed again, and taken out of the loop."""
    producer_of = producers(step.joint.closed.jaxpr.eqns)
    outputs = {atom for atom in step.joint.outputs if is_var(atom)}
    rows = []
    for var in step.parts.saved:
        why = "an output already" if var in outputs else "fewest bytes from which the rest is cheap"
        why = why if var in producer_of else "the carry"
        rows.append(residual_report.saved_row("stacked", var, loop.length, producer_of, why))
    rows += residual_report.recomputed_rows(step.parts.recomputed, where)
    for term in (term for terms in step.hoisted.terms for term in terms):
        shapes = " · ".join(v.aval.str_short(short_dtypes=True) for v in term.reads())
        source = term.equation or producer_of.get(term.leaf)
        line = source_line(source) if source else where
        what = term.equation.primitive.name if term.equation else "sum"
        rows.append(residual_report.Residual("hoisted", shapes, 0, line, f"one {what} over {loop.length} steps"))
    return rows
