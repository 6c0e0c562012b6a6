"""`fb.fit_budget`: the budget with which a gradient fits into a given memory, found by compiling it."""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any, Unpack

import jax

from ...jaxprs.tracebacks import hides_internal_frames
from ..options import Options, takes_options
from ..transforms import value_and_grad
from .residual_report import residuals
from .save_policy import BudgetError

CLOSE = 0.9  # of the memory: near enough
TRIES = 8


@partial(takes_options, but="budget")
@hides_internal_frames
def fit_budget(
    fun: Callable,
    *args: Any,
    memory: int,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    allow_int: bool = False,
    **options: Unpack[Options],
) -> float | None:
    """The `budget=` with which the value and gradient of `fun(*args)`, compiled, take at most `memory` bytes.

    What loops and jitted functions save is only a part of what a program needs: the rest is known when it is compiled.
    This compiles it up to nine times (nothing runs), and ends when at least nine tenths of the memory are in use, or
    when what is saved can be chosen no finer.

    Args:
        fun: as for `fb.value_and_grad`.
        *args: its arguments, of which only shapes and dtypes matter.
        memory: bytes of temporary memory, `compiled.memory_analysis().temp_size_in_bytes`, beside operands and results.
        argnums: the positional argument or arguments to differentiate.
        has_aux: whether `fun` returns a pair (scalar, aux).
        allow_int: let integer arguments pass.
        options: those of the engine, but for `budget`.
    Returns:
        The budget in bytes; or None, if it fits without one.
    Raises:
        BudgetError: there is no such budget; the message says the least memory that was reached.
        TypeError: `memory` is no number, or `budget` is given.
    Example:
        >>> import fnbackprop as fb, jax, jax.numpy as jnp
        >>> def loss(w, x):
        ...     return jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0])
        >>> w, x = jnp.ones((16, 32, 32)), jnp.ones((64, 32))
        >>> budget = fb.fit_budget(loss, w, x, memory=160_000)
        >>> program = jax.jit(fb.value_and_grad(loss, budget=budget)).lower(w, x).compile()
        >>> program.memory_analysis().temp_size_in_bytes <= 160_000
        True
    """

    if "budget" in options:
        raise TypeError("fb.fit_budget finds the budget: give no budget=")
    if not isinstance(memory, Real):
        raise TypeError(f"memory must be a number of bytes, but got {memory!r}")

    def needed(budget: float | None) -> int:
        differentiated = value_and_grad(fun, argnums, has_aux, allow_int=allow_int, **{**options, "budget": budget})
        gradient = jax.jit(differentiated)
        analysis: Any = gradient.lower(*args).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    unlimited = needed(None)
    if unlimited <= memory:
        return None
    return _search(needed, memory, unlimited, residuals(fun, *args).nbytes)


def _search(needed: Callable[[float | None], int], memory: int, unlimited: int, saved: int) -> float:
    """The budget between nothing and what is saved with which a program needs at most `memory` bytes."""
    low, high, fitting, least = 1, saved, None, unlimited
    budget = saved - (unlimited - memory)  # as if all of it were of one loop
    for _ in range(TRIES):
        if not low < budget < high:
            budget = (low + high) // 2
        if budget <= low:
            break
        try:
            found = needed(budget)
        except BudgetError:
            low = budget
            continue
        least = min(least, found)
        if found > memory:
            high = budget
        else:
            low = fitting = budget
            if found >= CLOSE * memory:
                break
        budget += memory - found
    if fitting is None:
        raise BudgetError(
            f"no budget makes the gradient fit into {memory:,} bytes of temporary memory: "
            f"the least found is {least:,}, and {unlimited:,} without a budget",
            least,
            unlimited,
        )
    return fitting
