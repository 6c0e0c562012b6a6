"""`fnbackprop trace MODULE:FUNCTION` and `fnbackprop trace FILE`: what is asked for, and how it is told; and the origin
of what `fnbackprop compare` finds to be not finite."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..comparing.command import FunctionOptions, compared_function, function_and_arguments, report
from ..comparing.comparison import Comparison
from ..comparing.results import Verdict
from ..writing import writing
from .pipeline import trace
from .result import Trace
from .show.rows import LinesError, table_rows


@dataclasses.dataclass(frozen=True)
class TraceOptions:
    """What of a trace is shown."""

    lines: str | None = None
    """Show each equation of these lines by itself: model.py:40-60, or model.py."""
    detailed: bool = False
    """Look at each equation by itself, also where a compiled program would be looked at."""
    safe_select: bool = False
    """A cotangent that is exactly zero stays zero where the derivative is infinite."""
    json: Path | None = None
    """Write the trace to this file as well."""
    html: Path | None = None
    """Write a page with the source, the depth and the loops to this file."""

    def settings(self) -> dict[str, Any]:
        """Keywords of `fb.trace`."""
        return {"detailed": self.detailed, "safe_select": self.safe_select}


@dataclasses.dataclass(frozen=True)
class FunctionTraceOptions(TraceOptions):
    """The arguments at which a function is traced."""

    args: tuple[str, ...] = ()
    """Its arguments, one after the other: see above. Or the name of a function of the module that returns them."""
    argnums: tuple[int, ...] = ()
    """Which of them are differentiated: by default, all that have a floating array."""
    seed: int = 0
    """The seed of the arrays and keys."""


def trace_function(module: ModuleType, name: str, options: FunctionTraceOptions) -> int:
    """Trace a function of a module, print the result, and return 0 if value and gradient are finite, else 1."""
    fun, args, chosen = function_and_arguments(module, name, options)
    return show(trace(fun, *args, argnums=chosen, has_aux=False, **options.settings()), options)


def show(found: Trace, options: TraceOptions) -> int:
    """Print a trace, write it where it is wanted, and return the exit status."""
    if options.lines is not None and not table_rows(found.records, options.lines):
        raise LinesError(found.table(options.lines))
    print(found if options.lines is None else found.table(options.lines))
    if options.json is not None:
        with writing(options.json):
            options.json.write_text(found.to_json() + "\n", encoding="utf-8")
    if options.html is not None:
        with writing(options.html):
            found.html(options.html)
        print(f"written to {options.html}")
    return 0 if found.ok else 1


# ---------------------------------------------------------------- after a comparison


def compare_function(module: ModuleType, name: str, options: FunctionOptions) -> int:
    """Compare a function of a module, print the result and the origin of what is not finite; 0 if it passed, else 1."""
    with options.mode():
        comparison, fun, args, chosen = compared_function(module, name, options)
        status = report(comparison, options)
        tell_origin(comparison, fun, *args, argnums=chosen)
    return status


def tell_origin(comparison: Comparison, fun: Callable, *args: Any, argnums: int | Sequence[int] = 0) -> None:
    """If a comparison found numbers that are not finite, print the line that made them so, and what to do."""
    if not any(leaf.verdict is Verdict.NON_FINITE for leaf in (comparison.value, *comparison.leaves)):
        return
    blame = trace(fun, *args, argnums=argnums).blame()
    if blame is not None:
        print(f"\n{blame.sentence}")
