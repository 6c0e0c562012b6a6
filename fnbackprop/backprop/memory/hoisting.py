"""Sums over time that leave the reverse loop.

The cotangent of a loop-invariant operand is a sum over the steps. Added up in the loop, each step reads and writes the
whole sum. Where a step's term is a product of two arrays, sum_t A_t·B_t is one contraction whose contracted axes
include time: the loop only stacks A_t and B_t (or finds them stacked already), and the contraction runs once after it.
The same holds of convolutions, scatter-adds and elementwise products (`time_sums.py`), and of a value that is stacked
anyway.

When it pays: in the loop, a term with contracted size K costs 2·K operations and about 12 bytes of traffic per element
of the sum. A processor with r operations per byte does the traffic in the time of the operations where K = 6·r; CPUs
measured here and accelerators lie well above the `CONTRACTION` used. So a term is hoisted if K is below it, and if
what must be stacked for it per step is no larger than the sum itself; elementwise products and plain sums, which read
as much after the loop as in it, only if their operands are stacked already.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax import lax

from ...jaxprs.avals import has_own_sums
from ...jaxprs.evaluate import bind
from ...jaxprs.graph import descendants, producers
from ...jaxprs.primitives import Trait, has
from ...jaxprs.types import is_var
from ..precision import wide
from . import residuals, time_sums
from .save_policy import nbytes, total_bytes

CONTRACTION = 48


class Term(NamedTuple):
    """A summand of a cotangent: the value `leaf`, which `equation` computes, and the linear equations after it.

    equation: summed over time from the stacks of its operands; None: the leaf is stacked itself.
    """

    leaf: Any
    equation: Any | None
    after: tuple[Any, ...]

    def reads(self) -> list[Any]:
        """The values of which stacks are needed."""
        return [self.leaf] if self.equation is None else time_sums.operands(self.equation)


class Hoisted(NamedTuple):
    """What of each loop-invariant operand's cotangent leaves the loop.

    terms: by operand, the terms summed after the loop; remaining: by operand, the atoms still added up in it.
    stacked: the values that the loop must stack for the terms.
    """

    terms: tuple[tuple[Term, ...], ...]
    remaining: tuple[tuple[Any, ...], ...]
    stacked: tuple[Any, ...]


def choose(
    split: residuals.Split,
    atoms: Sequence[Any],
    available: Sequence[Any],
    carried: Sequence[Any],
    always: bool | None,
    extra: bool = True,
) -> Hoisted:
    """Choose the terms to hoist.

    Args:
        atoms: the cotangents of the loop-invariant operands.
        available: variables that are stacked already.
        carried: the other variables of which each step has another value: the carry's cotangents.
        always: True: whatever can be; False: nothing; None: by the cost rule.
        extra: whether the cost rule may stack further values.
    """
    producer_of = producers(split.backward)
    changing = descendants(split.backward, (*available, *carried))
    summands = [_summands(atom, producer_of) for atom in atoms]
    stacked: dict[Any, None] = {}
    chosen: dict[Any, Term] = {}
    # Those that may need further stacks come first: what they stack, others find.
    for leaf, after in sorted((pair for pairs in summands for pair in pairs), key=_finds_its_stacks(producer_of)):
        for term in _candidates(leaf, after, producer_of, {*available, *stacked}) if always is not False else ():
            if _can_leave(term, changing, producer_of) and _pays(term, {*available, *stacked}, always, extra):
                chosen.setdefault((leaf, after), term)
                stacked.update((v, None) for v in term.reads() if v not in available)
                break

    def leaves(pair: tuple[Any, tuple[Any, ...]]) -> bool:
        return is_var(pair[0]) and pair in chosen

    terms = tuple(tuple(chosen[pair] for pair in pairs if leaves(pair)) for pairs in summands)
    remaining = (tuple(_end(*pair) for pair in pairs if not leaves(pair)) for pairs in summands)
    return Hoisted(terms, tuple(remaining), tuple(stacked))


def total(term: Term, stacks: dict[Any, Any]) -> Any:
    """The sum over time of a term, from the stacks (time first) of the values that it reads."""
    found = [stacks[v] for v in term.reads()]
    if term.equation is None:
        result = lax.reduce_sum(wide(found[0]), axes=(0,))
    else:
        result = time_sums.summed(term.equation, found)
    for equation in term.after:
        if equation.primitive.name != "convert_element_type":  # the engine casts the result
            result = bind(equation, (result,))[0]
    return result


def _summands(atom: Any, producer_of: dict[Any, Any], after: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """The leaves of a sum, each with the linear equations between it and the sum, innermost first."""
    equation = producer_of.get(atom) if is_var(atom) else None
    if equation is not None and not after and has(equation, Trait.ADDITION) and _same_shapes(equation):
        return [pair for operand in equation.invars for pair in _summands(operand, producer_of)]
    if equation is not None and has(equation, Trait.LINEAR):
        return _summands(equation.invars[0], producer_of, (equation, *after))
    return [(atom, after)]


def _end(leaf: Any, after: tuple[Any, ...]) -> Any:
    return after[-1].outvars[0] if after else leaf


def _same_shapes(equation: Any) -> bool:
    return all(is_var(v) and v.aval.shape == equation.outvars[0].aval.shape for v in equation.invars)


def _finds_its_stacks(producer_of: dict[Any, Any]) -> Callable:
    def key(pair: tuple[Any, tuple[Any, ...]]) -> bool:
        equation = producer_of.get(pair[0]) if is_var(pair[0]) else None
        return equation is None or not has(equation, Trait.SUMMED_OVER_TIME) or equation.primitive.name == "mul"

    return key


def _candidates(leaf: Any, after: tuple, producer_of: dict[Any, Any], available: set[Any]) -> list[Term]:
    """The ways to sum a leaf after the loop: by its equation, or itself, which comes first if it is stacked anyway."""
    if not is_var(leaf) or has_own_sums(leaf.aval):
        return []
    itself = Term(leaf, None, after)
    if leaf in available or leaf not in producer_of:
        return [itself]
    return [Term(leaf, producer_of[leaf], after), itself]


def _can_leave(term: Term, changing: set[Any], producer_of: dict[Any, Any]) -> bool:
    if term.equation is not None and not time_sums.is_sum(term.equation, producer_of):
        return False
    return all(v in changing for v in term.reads())


def _pays(term: Term, available: set[Any], always: bool | None, extra: bool) -> bool:
    if always:
        return True
    more = total_bytes(v for v in term.reads() if v not in available)
    if term.equation is None or term.equation.primitive.name == "mul":
        return not more
    allowed = nbytes(term.leaf.aval) if extra else 0
    return time_sums.contracted(term.equation) < CONTRACTION and more <= allowed
