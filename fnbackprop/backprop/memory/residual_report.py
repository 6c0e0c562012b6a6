"""`fb.residuals`: what a function's backward pass saves, recomputes and takes out of loops, and why."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from ...columns import aligned
from ...jaxprs.avals import is_inexact
from ...jaxprs.evaluate import source_line, trace_flat
from ...jaxprs.graph import producers
from ...jaxprs.types import Equation, Var
from ..arguments import function_of_arrays, require_floating
from ..engine import Engine
from ..options import Options, takes_options
from ..plan import Plan
from ..rewriting import rewrite
from .save_policy import nbytes


@dataclass(frozen=True)
class Residual:
    """One value that is saved (or a loop's work): `kind` is "saved", "stacked", "again" or "hoisted"."""

    kind: str
    what: str  # shape and dtype, or the primitives
    nbytes: int  # over all steps
    where: str  # the user's line
    why: str


@dataclass(frozen=True)
class Residuals:
    """The rows of `fb.residuals`. Printing it shows a table with the bytes in all."""

    rows: tuple[Residual, ...]

    @property
    def nbytes(self) -> int:
        """Bytes saved for the backward, beyond the function's own inputs."""
        return sum(row.nbytes for row in self.rows)

    def __str__(self) -> str:
        cells = [("", "what", "bytes", "where", "why")]
        cells += [(r.kind, r.what, f"{r.nbytes:,}" if r.nbytes else "", r.where, r.why) for r in self.rows]
        return "\n".join([*aligned(cells), f"{self.nbytes:,} bytes saved"])


@takes_options
def residuals(fun: Callable, *args: Any, **options: Unpack[Options]) -> Residuals:
    """What the backward of `fun(*args)` saves, recomputes and takes out of loops.

    Args:
        fun: a function of arrays and pytrees of them, models that hold functions among them; nothing is computed.
        *args: its arguments, of which only shapes and dtypes matter. Gradients with respect to all are meant.
        options: those of `fb.vjp`: their effect is seen before anything runs.
    Returns:
        A Residuals: print it, or ask for its `rows` and `nbytes`, the bytes that are saved in all.
    Raises:
        TypeError: no argument has a floating array.
        MissingRule: equations without a rule, all listed with their source lines.
        BudgetError: no backward keeps the budget.
    Example:
        >>> import fnbackprop as fb, jax.numpy as jnp
        >>> fb.residuals(lambda x: jnp.sum(jnp.tanh(x) ** 2), jnp.ones((4, 8))).nbytes  # of tanh, its output: 4·8·4
        128
    """
    require_floating({f"args[{i}]": arg for i, arg in enumerate(args)}, "residuals")
    engine, closed = Engine.of_options(options), trace_flat(*function_of_arrays(fun, args, {})).closed
    closed = rewrite(closed)[0] if engine.fuse else closed
    active = tuple(is_inexact(v.aval) for v in closed.jaxpr.invars)
    wanted = tuple(is_inexact(v.aval) for v in closed.jaxpr.outvars)
    return Residuals(tuple(_rows(engine.new_plan(closed, active, wanted))))


def _rows(plan: Plan) -> list[Residual]:
    producer_of = producers(plan.closed.jaxpr.eqns)
    reader_of = {v: step.equation for step in plan.steps.values() for v in step.variables()}
    rows = []
    for var in (v for v in plan.saved if v in producer_of):
        why = f"read by the rule of {reader_of[var].primitive.name}"
        rows.append(saved_row("saved", var, 1, producer_of, why))
    for step in plan.steps.values():
        if step.structured and step.structured.describe:
            rows += step.structured.describe(source_line(step.equation))
    return rows


def saved_row(kind: str, var: Var, steps: int, producer_of: dict[Var, Equation], why: str) -> Residual:
    """A saved value; of a loop, over all its steps."""
    producer = producer_of.get(var)
    where = "an input" if producer is None else source_line(producer)
    shape = var.aval.str_short(short_dtypes=True)
    return Residual(kind, f"{steps} x {shape}" if steps != 1 else shape, steps * nbytes(var.aval), where, why)


def recomputed_rows(equations: Sequence[Equation], where: str) -> list[Residual]:
    """What is recomputed; no row if nothing is."""
    return [Residual("again", counted(equations), 0, where, "cheaper than to save")] if equations else []


def counted(equations: Any) -> str:
    """Equations by primitive, the most frequent ones: "3 mul, 1 tanh"."""
    counts = Counter(e.primitive.name for e in equations).most_common()
    shown = ", ".join(f"{n} {name}" for name, n in counts[:3])
    return shown if len(counts) <= 3 else f"{shown}, {sum(n for _, n in counts[3:])} others"
