"""Sums over time that leave the reverse loop.

The cotangent of a loop-invariant operand is a sum over the steps. Added up in the loop, each step reads and writes the
whole sum. Where a step's term is a product of two arrays, sum_t A_t·B_t is one contraction whose contracted axes
include time: the loop only stacks A_t and B_t (or finds them stacked already), and the contraction runs once after it,
accumulating in float32 for low precision.

When it pays: in the loop, a term with contracted size K costs 2·K operations and about 12 bytes of traffic per element
of the sum. A processor with r operations per byte does the traffic in the time of the operations where K = 6·r; CPUs
measured here and accelerators lie well above the `CONTRACTION` used. So a term is hoisted if K is below it, and if what
must be stacked for it per step is no larger than the sum itself.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from . import jaxprs, residuals
from .choosing import nbytes

CONTRACTION = 48

# Linear primitives of one operand, the same at each step: they may be applied once, to the sum.
LINEAR = frozenset(("transpose", "reshape", "neg", "squeeze", "convert_element_type", "rev", "reduce_sum"))
ADDITIONS = frozenset(("add", "add_any"))


class Term(NamedTuple):
    """A summand of a cotangent: `product`, the dot_general that it ends in, then the linear equations after it."""

    product: Any
    after: tuple[Any, ...]


class Hoisted(NamedTuple):
    """What of each loop-invariant operand's cotangent leaves the loop.

    terms: by operand, the terms contracted after the loop; remaining: by operand, the atoms still added up in it.
    stacked: the values that the loop must stack for the terms.
    """

    terms: tuple[tuple[Term, ...], ...]
    remaining: tuple[tuple[Any, ...], ...]
    stacked: tuple[Any, ...]


def choose(split: residuals.Split, atoms: Sequence[Any], available: Sequence[Any], always: bool | None) -> Hoisted:
    """Choose the terms to hoist.

    Args:
        atoms: the cotangents of the loop-invariant operands.
        available: variables that are stacked already.
        always: True: every product; False: none; None: by the cost rule.
    """
    producers = {v: e for e in split.backward for v in e.outvars}
    changing = _changing(split, available)
    stacked: dict[Any, None] = {}
    terms, remaining = [], []
    for atom in atoms:
        hoisted, rest = [], []
        for leaf, after in _summands(atom, producers):
            product = producers.get(leaf)
            if product is not None and _pays(product, changing, available, always):
                hoisted.append(Term(product, after))
                stacked.update((v, None) for v in product.invars if v not in available)
            else:
                rest.append(after[-1].outvars[0] if after else leaf)
        terms.append(tuple(hoisted))
        remaining.append(tuple(rest))
    return Hoisted(tuple(terms), tuple(remaining), tuple(stacked))


def contract(term: Term, stacks: dict[Any, Any]) -> Any:
    """The sum over time of a term, from the stacks (time first) of its product's operands."""
    lhs, rhs = (stacks[v] for v in term.product.invars)
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = term.product.params["dimension_numbers"]
    numbers = (
        ((0, *(d + 1 for d in lhs_contract)), (0, *(d + 1 for d in rhs_contract))),
        (tuple(d + 1 for d in lhs_batch), tuple(d + 1 for d in rhs_batch)),
    )
    dtype = term.product.outvars[0].aval.dtype
    wide = jnp.dtype(jnp.float32) if dtype in (jnp.bfloat16, jnp.float16) else dtype
    total = lax.dot_general(
        lhs, rhs, numbers, precision=term.product.params["precision"], preferred_element_type=wide
    )
    for equation in term.after:
        if equation.primitive.name != "convert_element_type":  # the driver casts the result
            total = jaxprs.bind(equation, (total,))[0]
    return total


def _summands(atom: Any, producers: dict[Any, Any], after: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """The leaves of a sum, each with the linear equations between it and the sum, innermost first."""
    equation = producers.get(atom) if jaxprs.is_var(atom) else None
    if equation is not None and not after and equation.primitive.name in ADDITIONS and _same_shapes(equation):
        return [pair for operand in equation.invars for pair in _summands(operand, producers)]
    if equation is not None and equation.primitive.name in LINEAR:
        return _summands(equation.invars[0], producers, (equation, *after))
    return [(atom, after)]


def _same_shapes(equation: Any) -> bool:
    return all(jaxprs.is_var(v) and v.aval.shape == equation.outvars[0].aval.shape for v in equation.invars)


def _pays(product: Any, changing: set[Any], available: Sequence[Any], always: bool | None) -> bool:
    if product.primitive.name != "dot_general" or not all(v in changing for v in product.invars if jaxprs.is_var(v)):
        return False
    if not all(map(jaxprs.is_var, product.invars)) or always is False:
        return False
    if always:
        return True
    contracted = product.params["dimension_numbers"][0][0]
    lhs = product.invars[0].aval
    size = 1
    for axis in contracted:
        size *= lhs.shape[axis]
    extra = sum(nbytes(v.aval) for v in product.invars if v not in available)
    return size < CONTRACTION and extra <= nbytes(product.outvars[0].aval)


def _changing(split: residuals.Split, available: Sequence[Any]) -> set[Any]:
    """The values of the backward that may differ from step to step."""
    return {*available, *(v for e in split.backward for v in e.outvars)}
