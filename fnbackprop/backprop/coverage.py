"""Which equations of a function, or which primitives of the installed JAX, have a rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ..columns import aligned
from ..jaxprs.evaluate import source_line
from ..jaxprs.graph import all_equations
from ..jaxprs.primitives import all_primitives
from .arguments import function_of_arrays
from .registry import Entry, lookup

KINDS = RULED, CONSTANT, FOREIGN, UNSUPPORTED, MISSING = "rule", "no derivative", "foreign", "unsupported", "missing"


@dataclass(frozen=True)
class Row:
    """One primitive: how it is covered, by what (rules' names or the reason), how often and where it occurs."""

    primitive: str
    kind: str
    by: str
    count: int = 0
    where: str = ""


@dataclass(frozen=True)
class Coverage:
    """The rows of `fb.coverage`, one a primitive. Printing it shows a table."""

    rows: tuple[Row, ...]

    @property
    def missing(self) -> tuple[Row, ...]:
        """The primitives that have neither a rule nor a reason for having none."""
        return self.of(MISSING)

    @property
    def ok(self) -> bool:
        return not self.missing

    def of(self, kind: str) -> tuple[Row, ...]:
        """The rows of one kind: "rule", "no derivative", "foreign", "unsupported" or "missing"."""
        return tuple(row for row in self.rows if row.kind == kind)

    def __str__(self) -> str:
        titles = ("primitive", "count", "kind", "by", "first at")
        cells = [titles, *((r.primitive, r.count, r.kind, r.by, r.where) for r in self.rows)]
        table = [tuple(str(cell or "") for cell in row) for row in cells]
        kinds = ", ".join(
            f"{len(self.of(k))} {k}" for k in (RULED, CONSTANT, FOREIGN, UNSUPPORTED, MISSING) if self.of(k)
        )
        return "\n".join([*aligned(table), kinds])


def coverage(fun: Callable | None = None, *args: Any, **kwargs: Any) -> Coverage:
    """The equations of `fun(*args)` by primitive: how many, their rule, or that it is missing, with source lines.

    Args:
        fun: a function as `jax.make_jaxpr` takes it, of models that hold functions too; its inner jaxprs are counted
            as well. Without one, every primitive of the installed JAX is listed.
        *args: its positional arguments, of which only shapes and dtypes matter.
        **kwargs: its keyword arguments.
    Returns:
        A Coverage: print it, or ask for `.ok`, `.missing`, `.of(kind)`.
    Raises:
        TypeError: `fun` does not take these arguments.
    Example:
        >>> import fnbackprop as fb, jax.numpy as jnp
        >>> print(fb.coverage(lambda x: jnp.sum(jnp.sin(x)), jnp.ones(3)).of("rule")[0].by)
        reduce_sum_vjp
    """
    if fun is None:
        return Coverage(tuple(_row(p) for p in sorted(all_primitives(), key=lambda p: p.name)))
    function, arrays = function_of_arrays(fun, args, kwargs)
    closed = jax.make_jaxpr(function)(*arrays)
    counts: dict[Any, list[Any]] = {}
    for equation in all_equations(closed):
        counts.setdefault(equation.primitive, []).append(equation)
    rows = [_row(p, found) for p, found in counts.items()]
    return Coverage(tuple(sorted(rows, key=lambda row: (row.kind != MISSING, -row.count, row.primitive))))


def _row(primitive: Any, equations: Sequence[Any] = ()) -> Row:
    entry = lookup(primitive)
    given = frozenset().union(*(entry.given(equation.params) for equation in equations if entry))
    return Row(primitive.name, *_cover(entry, given), len(equations), source_line(equations[0]) if equations else "")


def _cover(entry: Entry | None, given: frozenset[str]) -> tuple[str, str]:
    if entry is None:
        return MISSING, ""
    if entry.unsupported:
        return UNSUPPORTED, entry.unsupported
    if entry.no_gradient:
        return CONSTANT, entry.no_gradient
    if entry.foreign:
        return FOREIGN, "its author's derivative"
    rules = [rule.function for rule in entry.rules if rule.given is None or rule.given in given]
    functions = [entry.structured] if entry.structured else rules
    return RULED, ", ".join(dict.fromkeys(f.__name__ for f in functions))
