"""A trace by one compiled program: the gradient's own, with the statistics of what it computes as further results."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..backprop.plan import Plan
from ..comparing.program import TracedProgram
from ..jaxprs.avals import as_jax_array, is_inexact, zero_cotangent
from ..jaxprs.evaluate import named_as_backward, trace_flat
from ..jaxprs.types import ClosedJaxpr
from .harvest import Block, harvest
from .observing_engine import Mark, Marks, ObservingEngine
from .recorder import Recorder
from .records import Iteration, Record, Scope, Seen
from .reductions import statistics_of


class Compiled(NamedTuple):
    """A program that returns (value, gradients of the active operands), and beside these what its observers see.

    program: compiled; of the constants and the flat operands. active: which operands have a gradient. blocks: what
    each of the arrays holds that it returns last.
    """

    program: Any
    constants: list[Any]
    active: tuple[bool, ...]
    blocks: list[Block]
    marks: list[Mark]


def compile_gradient(closed: TracedProgram, recorder: Recorder, options: Mapping[str, Any]) -> Compiled:
    """Compile the gradient with what its observers see. Raises NotCompiled."""
    marks, operands = Marks(recorder), [as_jax_array(x) for x in closed.operands]
    engine = ObservingEngine.marking(marks, options)
    wanted = tuple(is_inexact(v.aval) for v in closed.closed.jaxpr.outvars)
    plan = engine.new_plan(closed.closed, closed.active, wanted)
    gradient, blocks = observed_gradient(engine, plan, operands), list[Block]()

    def run(constants, operands):
        outputs, found = harvest(gradient.jaxpr, constants, operands, marks.known)
        blocks[:] = [block for block, _ in found]
        return outputs, [array for _, array in found]

    program = jax.jit(run).lower(list(gradient.consts), operands).compile()
    return Compiled(program, list(gradient.consts), plan.has_cotangent, blocks, marks.known)


def observed_gradient(engine: ObservingEngine, plan: Plan, operands: Sequence[Any]) -> ClosedJaxpr:
    """The jaxpr of value and gradients, with observers."""

    def both(*operands):
        (value,), residuals = engine.forward(plan, operands)
        with named_as_backward():
            found = engine.backward(plan, residuals, [jnp.ones_like(value)])
        pairs = zip(found, plan.closed.jaxpr.invars, plan.has_cotangent, strict=True)
        return [value, *(zero_cotangent(v.aval) if ct is None else ct for ct, v, on in pairs if on)]

    return trace_flat(both, operands).closed


# ---------------------------------------------------------------- what was seen


def fill(recorder: Recorder, found: Compiled, arrays: Sequence[Any]) -> None:
    """Note in the records what the observers saw."""
    sights = Sights(found.marks)
    for block, array in zip(found.blocks, jax.device_get(list(arrays)), strict=True):
        sights.add(block, array)
    seen = {mark.record for mark in (*sights.statistics, *sights.values)}
    recorder.records[:] = [record for record in _in_order(recorder.scope, seen) if record in seen]
    for number, record in enumerate(recorder.records):
        record.number = number
    sights.write(recorder)


def _in_order(scope: Scope, seen: set[Record]) -> Iterator[Record]:
    """The records in the order of the forward walk, each before those of its body."""
    bodies: dict[int, list[Scope]] = {}
    for (equation, _), body in scope.children.items():
        bodies.setdefault(equation, []).append(body)
    for equation, record in scope.records.items():
        inside = [r for body in bodies.pop(equation, ()) for r in _in_order(body, seen)]
        record.entered = any(r in seen for r in inside)
        yield from (record, *inside)
    for body in (body for group in bodies.values() for body in group):
        yield from _in_order(body, seen)


class Sights:
    """What was seen: by record and kind, then by iteration, in the order in which these ran."""

    def __init__(self, marks: Sequence[Mark]):
        self.marks = marks
        self.statistics: dict[Mark, dict[Iteration, list[Any]]] = {}
        self.values: dict[Mark, dict[Iteration, list[Any]]] = {}

    def add(self, block: Block, array: Any) -> None:
        if block.value is not None:
            present, values = array
            for iteration in _steps(present.shape, block.loops):
                if present[iteration]:
                    self._put(self.values, block.value, iteration, values[iteration])
            return
        for iteration in _steps(array.shape, block.loops):
            for row, columns in zip(block.rows, array[iteration], strict=True):
                for number, times in row.marks:
                    found = statistics_of(columns, row.size, times)
                    if found is not None:
                        self._put(self.statistics, number, iteration, found)

    def _put(self, sights: dict, number: int, iteration: Iteration, what: Any) -> None:
        mark = self.marks[number]
        places = sights.setdefault(mark._replace(position=0), {})
        entry = places.setdefault(iteration, [None] * mark.count)
        if entry[mark.position] is None:
            entry[mark.position] = what

    def write(self, recorder: Recorder) -> None:
        for mark, places in self.statistics.items():
            getattr(mark.record, mark.kind)[:] = [Seen(i, tuple(entry)) for i, entry in places.items()]
        for record in recorder.records:
            _align(record)
        for mark, places in self.values.items():
            for iteration, entry in places.items():
                _note_value(recorder, mark, iteration, entry)


def _steps(shape: tuple[int, ...], loops: tuple[bool, ...]) -> Iterator[Iteration]:
    """The steps of loops in the order in which they run."""
    for at in np.ndindex(*shape[: len(loops)]):
        yield tuple(n - 1 - i if reverse else i for i, n, reverse in zip(at, shape, loops, strict=False))


def _align(record: Record) -> None:
    """What is passed on stands beside each cotangent, also where it is not computed: in a sum that left its loop."""
    known = {seen.iteration: seen for seen in record.passed_on}
    record.passed_on[:] = [known.get(seen.iteration, Seen(seen.iteration, ())) for seen in record.cotangents]


def _note_value(recorder: Recorder, mark: Mark, iteration: Iteration, entry: list[Any]) -> None:
    record = mark.record
    if mark.kind == "key":
        recorder.keys.setdefault(np.asarray(entry[0]).tobytes(), []).append((record, iteration))
    elif mark.kind == "lost":
        if entry[0]:
            recorder.lost.append((record, iteration))
    elif mark.kind == "saturated":
        if entry[0] >= 0:
            record.saturated.append(float(entry[0]))
    else:
        side = mark.kind == "kept cotangents"
        recorder.kept.setdefault(record.number, ([], []))[side].append((iteration, list(map(_as_array, entry))))


def _as_array(x: Any) -> Any:
    return None if x is None else jnp.asarray(x)
