"""A barrier that holds on a CPU too: for recomputation that a compiler must not merge with the forward pass, whose
results it would then keep in memory, and for arrays that must be the same numbers wherever they are read."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from ...jaxprs.avals import aval_of, is_hijax, is_inexact, optimization_barrier, zeros_like_aval
from ...jaxprs.staging import is_transposing
from ...jaxprs.types import Tracer


def behind_barrier(function: Callable, avals: Sequence[Any], operands: Any, cotangents: Any) -> list[Any]:
    """`function(operands, cotangents)`, arrays of these avals, which no compiler merges with equal work elsewhere.

    XLA drops optimization barriers on a CPU. There the function is a branch that is always taken, on a condition that
    reads a cotangent, so that neither the condition nor the branch can be evaluated before the backward pass.

    On numbers, outside jit, each operation is compiled by itself, and there is nothing to merge. `jax.linear_transpose`
    takes a product of what comes out with a cotangent for no linear function: for it, there is no barrier.
    """
    if is_transposing() or not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((operands, cotangents))):
        return function(operands, cotangents)
    operands, cotangents = optimization_barrier((operands, cotangents))
    read = next((leaf for leaf in jax.tree.leaves(cotangents) if _has_first_number(aval_of(leaf))), None)
    if read is None:
        return function(operands, cotangents)
    first = lax.squeeze(lax.slice(read, (0,) * read.ndim, (1,) * read.ndim), range(read.ndim))
    always = lax.platform_dependent(lax.stop_gradient(first), cpu=_is_number_or_not, default=_true)
    return lax.cond(always, function, lambda *_: [zeros_like_aval(aval) for aval in avals], operands, cotangents)


def in_memory(function: Callable, avals: Sequence[Any], operands: tuple[Any, ...], cotangent: Any) -> list[Any]:
    """`function(*operands)` of arrays whose numbers are the same wherever it reads them: a compiler may compute a value
    again in each kernel that reads it, with another rounding in each (a multiply-add, a bfloat16 kept in float32).

    The condition reads an operand if it can: what depends on a cotangent is no factor of one in `jax.linear_transpose`.
    """
    if any(_has_first_number(aval_of(x)) for x in operands):
        return behind_barrier(lambda _, operands: function(*operands), avals, (), operands)
    return behind_barrier(lambda operands, _: function(*operands), avals, operands, cotangent)


def _has_first_number(aval: Any) -> bool:
    """Whether an array has a first number, and its explicit sharding does not forbid to take it and to compare it."""
    if is_hijax(aval):
        return False
    spec = aval.sharding.spec
    return is_inexact(aval) and aval.size > 0 and not (any(spec.partitions) or spec.unreduced or spec.reduced)


@jax.custom_batching.custom_vmap
def _is_number_or_not(x: Any) -> Any:
    return lax.bitwise_or(lax.eq(x, x), lax.ne(x, x))


@_is_number_or_not.def_vmap
def _is_number_or_not_of_the_first(size: int, batched: Any, x: Any) -> Any:
    """One condition for all examples: with one for each, the branch would be a selection, and no barrier."""
    return _is_number_or_not(lax.index_in_dim(x, 0, keepdims=False)), False


def _true(x: Any) -> Any:
    return lax.full_like(x, True, bool)
