"""`fnbackprop memory MODULE:FUNCTION` or FILE: what the backward pass saves, line by line, and what a budget costs.

Four questions, in this order: which of your lines makes the backward save how many bytes; what budgets there are; how
much memory the whole gradient takes with each; and how much time.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax

from .backprop.memory.budget_search import fit_budget
from .backprop.memory.residual_report import residuals
from .backprop.memory.save_policy import BudgetError
from .backprop.transforms import value_and_grad
from .columns import aligned
from .commands import CommandError
from .comparing.command import function_and_arguments
from .comparing.gradient_sources import automatic_value_and_grad
from .running.measuring import compiled, median_seconds

BUDGETS = (None, 0.5, 0.25, 0.1)  # the last three: of all that the backward reads
MOST_LINES = 12
UNITS = {"": 1, "B": 1}
UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)}
UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}


@dataclasses.dataclass(frozen=True)
class MemoryOptions:
    """What is asked about the memory of a gradient."""

    fit: str | None = None
    """Find the budget with which the gradient takes no more temporary memory than this: 2GiB, 500MB, or bytes."""


@dataclasses.dataclass(frozen=True)
class FunctionMemoryOptions(MemoryOptions):
    """The arguments of the function. Only their shapes and dtypes matter."""

    args: tuple[str, ...] = ()
    """Its arguments, one after the other: see above. Or the name of a function of the module that returns them."""
    argnums: tuple[int, ...] = ()
    """Which of them are differentiated: by default, all that have a floating array."""
    seed: int = 0
    """The seed of the arrays and keys."""


def memory_of_function(module: ModuleType, name: str, options: FunctionMemoryOptions) -> int:
    """Report on a function of a module; returns the exit status."""
    fun, args, chosen = function_and_arguments(module, name, options)
    return report(fun, args, chosen, options.fit)


def report(fun: Callable, args: Sequence[Any], argnums: Sequence[int], fit: str | None) -> int:
    """Print lines, budgets, memory and time of the gradient of a scalar function, and the budget that fits."""
    memory = None if fit is None else bytes_of(fit)

    def loss(*chosen: Any) -> Any:
        full = list(args)
        for position, value in zip(argnums, chosen, strict=True):
            full[position] = value
        return fun(*full)

    chosen = [args[position] for position in argnums]
    print("\n".join(_lines(residuals(loss, *chosen).rows)), end="\n\n")
    print("\n".join(_budgets(loss, chosen)))
    if memory is not None:
        print(f"\n{_fitting(loss, chosen, memory)}")
    return 0


def _lines(rows: Sequence[Any]) -> list[str]:
    """The bytes that each line makes the backward save, the most first."""
    saved, kinds = Counter(), {}
    for row in rows:
        if row.nbytes:
            saved[row.where] += row.nbytes
            kinds.setdefault(row.where, []).append(row.what)
    if not saved:
        return ["The backward pass saves nothing but the function's own inputs."]
    cells = [("saved for the backward", "bytes", "what")]
    cells += [(where, in_words(size), _few(kinds[where])) for where, size in saved.most_common(MOST_LINES)]
    rest = sum(saved.values()) - sum(size for _, size in saved.most_common(MOST_LINES))
    if rest:
        cells.append((f"{len(saved) - MOST_LINES} more lines", in_words(rest), ""))
    return aligned([*cells, ("in all", in_words(sum(saved.values())), "")], right={1})


def _few(kinds: list[str]) -> str:
    shown = ", ".join(kinds[:2])
    return shown if len(kinds) <= 2 else f"{shown} and {len(kinds) - 2} more"


def _budgets(loss: Callable, args: Sequence[Any]) -> list[str]:
    """For each budget, and for JAX: temporary memory of the compiled gradient, and its time."""
    argnums = tuple(range(len(args)))
    names, programs, refused = [], [], []
    for budget in BUDGETS:
        try:
            programs.append(compiled(value_and_grad(loss, argnums, allow_int=True, budget=budget), tuple(args)))
            names.append("none" if budget is None else f"budget={budget}")
        except BudgetError as error:
            refused.append(f"budget={budget}: {error}")
    try:
        programs.append(compiled(automatic_value_and_grad(loss, argnums, allow_int=True), tuple(args)))
        names.append("by jax.grad")
    except Exception as error:  # JAX refuses to differentiate some programs that we do not
        refused.append(f"by jax.grad: {type(error).__name__}")
    cells = [("budget", "memory", "time")]
    for name, (program, _), seconds in zip(names, programs, median_seconds(programs), strict=True):
        memory = program.memory_analysis().temp_size_in_bytes
        cells.append((name, in_words(memory), f"{1e3 * seconds:.3g} ms"))
    device = jax.devices()[0].device_kind
    note = f"memory: what the compiled value and gradient need beside operands and results, on {device}."
    return [*aligned(cells, right={1, 2}), *refused, note]


def _fitting(loss: Callable, args: Sequence[Any], memory: int) -> str:
    """The budget with which the gradient fits, and where to write it. Raises CommandError if there is none."""
    try:
        found = fit_budget(loss, *args, memory=memory, argnums=tuple(range(len(args))), allow_int=True)
    except BudgetError as error:
        raise CommandError(
            f"{error}.\nWhat else there is: smaller batches (Experiment(accumulate=N)), bfloat16, a lax.scan over "
            "equal layers, jax.checkpoint around a part whose lines stand high in the table.",
            status=1,
        ) from None
    if found is None:
        return f"It fits into {in_words(memory)} without a budget."
    return (
        f"It fits into {in_words(memory)} with budget={int(found)}:\n"
        f"    fb.value_and_grad(loss, budget={int(found)})      # or fb.grad, fb.vjp, fb.drop_in\n"
        f"    fnbackprop run --budget {int(found)} SCRIPT       # a script, unchanged"
    )


def bytes_of(text: str) -> int:
    """A number of bytes with its unit: "2GiB", "500 MB", "4096". Raises CommandError for anything else."""
    found = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2] not in UNITS:
        raise CommandError(f"--fit {text} is no size: write 2GiB, 500MB, or a number of bytes.")
    return int(float(found[1]) * UNITS[found[2]])


def in_words(size: float) -> str:
    """Bytes with the largest unit that leaves a number of at least 1: "12.3 MiB"."""
    power = min(int(math.log(max(size, 1), 1024)), 4)
    return f"{size / 1024**power:.1f} {'KMGT'[power - 1]}iB" if power else f"{size:.0f} B"
