"""`fb.fit_budget`: the budget with which a gradient fits into a given memory, found by compiling it."""

from collections.abc import Callable
from typing import Any

import jax

from ..transforms import value_and_grad
from .residual_report import residuals
from .save_policy import BudgetError

CLOSE = 0.9  # of the memory: near enough
TRIES = 8


def fit_budget(fun: Callable, *args: Any, memory: int, **options: Any) -> float | None:
    """The `budget=` with which the value and gradient of `fun(*args)`, compiled, take at most `memory` bytes.

    What loops and jitted functions save is only a part of what a program needs: the rest is known when it is compiled.
    This compiles it up to nine times (nothing runs), and ends when at least nine tenths of the memory are in use, or
    when what is saved can be chosen no finer.

    Args:
        fun: as for `fb.value_and_grad`; only the shapes and dtypes of `args` matter.
        memory: bytes of temporary memory, `compiled.memory_analysis().temp_size_in_bytes`, beside operands and results.
        options: further keywords of `fb.value_and_grad`.
    Returns:
        Bytes; or None, if it fits without a budget.
    Raises:
        BudgetError: there is no such budget; the message says the least memory that was reached.
    """

    def needed(budget: float | None) -> int:
        gradient = jax.jit(value_and_grad(fun, budget=budget, **options))
        analysis: Any = gradient.lower(*args).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    unlimited = needed(None)
    if unlimited <= memory:
        return None
    saved = residuals(fun, *args).nbytes
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
