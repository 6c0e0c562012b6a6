"""Work that is done a second time on purpose, kept from a compiler that would do it once and keep the result."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from ...jaxprs.avals import aval_of, is_inexact, optimization_barrier, zeros_like_aval


def computed_apart(function: Callable, avals: Sequence[Any], operands: Any, witness: Any) -> list[Any]:
    """`function(operands, witness)`, arrays of these avals, which no compiler merges with equal work elsewhere.

    `witness`: arrays that are not known before `function` may run. XLA drops barriers on a CPU, where the function is
    therefore a branch that is always taken, though only at run time can this be seen of the witness.
    """
    operands, witness = optimization_barrier((operands, witness))
    seen = next((leaf for leaf in jax.tree.leaves(witness) if _can_be_seen(aval_of(leaf))), None)
    if seen is None:
        return function(operands, witness)
    first = lax.squeeze(lax.slice(seen, (0,) * seen.ndim, (1,) * seen.ndim), range(seen.ndim))
    always = lax.platform_dependent(first, cpu=_is_number_or_not, default=_true)
    return lax.cond(always, function, lambda *_: [zeros_like_aval(aval) for aval in avals], operands, witness)


def _can_be_seen(aval: Any) -> bool:
    """Whether an array has a first number, and an axis spread explicitly over devices does not forbid to take it."""
    return is_inexact(aval) and aval.size > 0 and not any(aval.sharding.spec)


def _is_number_or_not(x: Any) -> Any:
    return lax.bitwise_or(lax.eq(x, x), lax.ne(x, x))


def _true(x: Any) -> Any:
    return lax.full_like(x, True, bool)
