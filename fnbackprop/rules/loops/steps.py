"""What the loops share: the plan of one step that holds at every step, and sums over the steps.

A body's operands are its constants, the carry and, of a scan, one row of each of the xs; its results are the carry and,
of a scan, one row of each of the ys.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from jax import lax

from ...backprop.precision import wide_dtype
from ...jaxprs.avals import add_typed, aval_of, has_own_sums, zeros_like_aval
from ...jaxprs.graph import fixpoint
from ...jaxprs.lists import split


class StepPlan(NamedTuple):
    """The body's plan, and what holds of its operands and results at every step."""

    plan: Any
    active: tuple[bool, ...]  # operands
    carry_cts: tuple[bool, ...]  # carries that have a cotangent
    ys_cts: tuple[bool, ...]


@lru_cache(maxsize=4096)
def active_flags(engine, body, num_consts, num_carry, active):
    """(active operands, active results) of a body, from the loop's active operands: a carry that becomes active in one
    step is active in all later ones."""
    consts, carry, xs = split(active, num_consts, num_carry)

    def results(carry):
        return engine.active_outputs(body, (*consts, *carry, *xs))

    carry = fixpoint(lambda carry: results(carry)[:num_carry], carry)
    return (*consts, *carry, *xs), (*carry, *results(carry)[num_carry:])


def plan_step(engine, body, num_consts, num_carry, active, wanted):
    """The plan of any step, from the loop's active operands and wanted results: a carry that gets a cotangent from one
    step has it in all earlier ones."""
    active, active_results = active_flags(engine, body, num_consts, num_carry, active)
    carry, ys = split([a and w for a, w in zip(active_results, wanted, strict=True)], num_carry)

    def plan(carry):
        return engine.plan(body, active, (*carry, *ys))

    carry = fixpoint(lambda carry: split(plan(carry).has_cotangent, num_consts, num_carry)[1], carry)
    return StepPlan(plan(carry), active, carry, tuple(ys))


def zero_sum(aval):
    """The start of a sum over the steps, in float32 for narrower dtypes; the engine casts the result back."""
    if has_own_sums(aval):
        return zeros_like_aval(aval)
    return zeros_like_aval(aval.update(dtype=wide_dtype(aval.dtype)))


def add_term(total, term):
    """A sum over the steps with a term added, in the sum's dtype."""
    if has_own_sums(aval_of(total)):
        return add_typed(total, term)
    return lax.add(total, lax.convert_element_type(term, total.dtype))
