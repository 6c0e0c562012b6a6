"""`watch`: the sizes of a few values and of their cotangents, on the device, as a pure function.

Watched are the values that have a name, and the carry of each scan, which is the residual stream of scanned layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import jax
import numpy as np
from jax import lax

from ..backprop.engine import Engine
from ..backprop.options import Options, takes_options
from ..backprop.plan import Plan
from ..comparing.program import check_differentiable, make_program, trace_program
from ..jaxprs.avals import aval_of, is_inexact
from ..jaxprs.primitives import Trait, has
from ..jaxprs.views import Scan
from .compiled import observed_gradient
from .harvest import Block, harvest
from .observing_engine import Mark, Marks, ObservingEngine, with_blocks
from .recorder import Recorder
from .recording_engine import settings_of
from .records import Record
from .reductions import rms_of
from .statistics import has_statistics

ENTERED = ("scan", "cond", "custom_jvp_call", "call_hi_primitive")


class Watched(NamedTuple):
    """Root mean squares, by name.

    Attributes:
      value: of the function.
      values, cotangents: by name an array; of a value inside loops with an axis for the steps of each, in their order;
        of one that several equations give, those of the first, then those of "name.1", and so on.
    """

    value: jax.Array
    values: dict[str, jax.Array]
    cotangents: dict[str, jax.Array]


@takes_options
def watch(
    fun: Callable, *args: Any, argnums: int | Sequence[int] = 0, has_aux: bool | None = None, **options: Unpack[Options]
) -> Watched:
    """The sizes of named values and of the carries of scans, and those of their cotangents.

    It can be jitted, and leaves out what they do not need: the gradient with respect to the parameters is none of it.

    Args:
      fun: a function of real scalar value, or of `(value, aux)`.
      *args: its arguments, as for `fb.grad`.
      argnums: which arguments are differentiated.
      has_aux: whether `fun` returns a pair; by default, seen from what it returns.
      options: those of the engine.

    Returns:
      a Watched. The carry of a scan is called "carry", "carry.1" ... in the order of the program, as many as it has
      floating arrays; at step i it is what that step gives. Of a name in a `while_loop` or `shard_map`, nothing.
    Raises:
      TypeError: the value is no real scalar, or there is nothing to differentiate.
      MissingRule: equations have no rule.

    Example:
      >>> import fnbackprop as fb, jax, jax.numpy as jnp
      >>> def loss(w):
      ...     step = lambda h, _: (fb.name(w * h, "state"), None)
      ...     return jax.lax.scan(step, 1.0, None, length=3)[0]
      >>> jax.jit(lambda w: fb.watch(loss, w))(2.0).cotangents["state"]
      Array([4., 2., 1.], dtype=float32)
    """
    program = make_program(fun, args, argnums, has_aux)
    closed = with_blocks(trace_program(program), options)
    check_differentiable(closed, "watch")
    marks = Marks(Recorder(lambda record: False))
    engine = WatchingEngine.marking(marks, options)
    plan = engine.new_plan(closed.closed, closed.active, tuple(is_inexact(v.aval) for v in closed.closed.jaxpr.outvars))
    gradient = observed_gradient(engine, plan, closed.operands)
    outputs, found = harvest(gradient.jaxpr, gradient.consts, closed.operands, marks.known)
    return Watched(outputs[0], *_by_name(found, marks.known))


@dataclass(frozen=True)
class WatchingEngine(ObservingEngine):
    """The observing engine, which looks at names and carries alone."""

    def structured(self, entry: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Any:
        if has(equation, Trait.CALL) or equation.primitive.name in ENTERED:
            return super().structured(entry, equation, active, wanted)
        return Engine(**settings_of(self)).structured(entry, equation, active, wanted)

    def forward(self, plan: Plan, operands: Sequence[Any]) -> tuple[list[Any], Any]:
        outputs, residuals = super().forward(plan, operands)
        self._observe_carry("values", plan, outputs)
        return outputs, residuals

    def backward(self, plan: Plan, residuals: Any, cotangents: Sequence[Any]) -> list[Any]:
        self._observe_carry("cotangents", plan, cotangents)
        return super().backward(plan, residuals, cotangents)

    def _observe_carry(self, kind: str, plan: Plan, results: Sequence[Any]) -> None:
        if self.holder is None or self.holder.primitive.name != "scan":
            return
        loop = Scan.of(self.holder)
        if loop.body is plan.closed:
            carry, _ = loop.split_results(results)
            self._mark(kind, self.record_of(self.holder), carry)

    def _observe(self, kind: str, record: Record, values: Sequence[Any], count: int) -> None:
        if record.name is not None and kind != "passed_on":
            self._mark(kind, record, values)

    def _observe_mistakes(self, record: Record, equation: Any, operands: list[Any], outputs: list[Any]) -> None:
        """None are looked for."""

    def _mark(self, kind: str, record: Record, values: Sequence[Any]) -> None:
        for i, x in enumerate(values):
            if x is not None and has_statistics(aval_of(x)):
                self.marks.observe(Mark(record, kind, i, len(values)), x)


def _by_name(found: Sequence[tuple[Block, Any]], marks: Sequence[Mark]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The root mean squares of values and of cotangents."""
    sizes: dict[str, dict[tuple[Record, int], Any]] = {"values": {}, "cotangents": {}}
    for block, columns in found:
        rms = rms_of(columns, np.array([row.size for row in block.rows]))
        for i, row in enumerate(block.rows):
            for number, _ in row.marks:
                mark = marks[number]
                sizes[mark.kind].setdefault((mark.record, mark.position), lax.index_in_dim(rms, i, -1, False))
    places = list(dict.fromkeys((*sizes["values"], *sizes["cotangents"])))
    names = _distinct([record.name or "carry" for record, _ in places])
    both = [{n: group[p] for n, p in zip(names, places, strict=True) if p in group} for group in sizes.values()]
    return both[0], both[1]


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that occur again have a number."""
    counts: dict[str, int] = {}
    found = []
    for name in names:
        counts[name] = counts.get(name, -1) + 1
        found.append(f"{name}.{counts[name]}" if counts[name] else name)
    return found
