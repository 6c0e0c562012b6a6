"""The engine that trains, which leaves an observer beside each value and cotangent: a program that shows them.

Rules, plans, loops and what these save are those of `Engine`. An observer (`observe`) is an equation that reads a value
and gives nothing; it stays wherever its value is computed anyway, and is never a reason to compute one. What was traced
with this engine is the gradient's own program, and `harvest.py` makes of it one that returns what its observers see.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from jax.interpreters import batching

from ..backprop.constants import lift
from ..backprop.engine import Engine
from ..backprop.plan import Plan
from ..backprop.registry import Structured
from ..backprop.rewriting import rewrite
from ..comparing.program import TracedProgram
from ..jaxprs.avals import aval_of
from ..jaxprs.evaluate import interpret, literals_as_arrays, read_array
from ..jaxprs.primitives import Trait, has
from ..jaxprs.types import Primitive, is_var
from ..jaxprs.views import Call, Cond
from .recorder import Recorder, epsilon_added
from .recording_engine import label_of, settings_of
from .records import Record
from .saturation import has_share
from .statistics import has_statistics

observe_p = Primitive("observe")
observe_p.multiple_results = True
observe_p.def_abstract_eval(lambda *avals, mark: [])
observe_p.def_impl(lambda *values, mark: [])
batching.primitive_batchers[observe_p] = lambda values, axes, mark: (observe_p.bind(*values, mark=mark), [])


def with_blocks(closed: TracedProgram, options: Mapping[str, Any]) -> TracedProgram:
    """The program that is differentiated: with blocks in it, if the option `fuse` asks for them."""
    return closed._replace(closed=lift(rewrite(closed.closed)[0])) if options.get("fuse") else closed


class NotCompiled(Exception):
    """An observer would stand where what it sees cannot leave: in a loop whose number of steps is data, or on one of
    several devices; or what it sees cannot be laid out flat."""


class Mark(NamedTuple):
    """What an observer sees.

    Attributes:
      record: of its equation. kind: "values", "cotangents" or "passed_on", of which statistics are kept; "key", a
        random key; "lost", whether an addition changed nothing; "saturated", of which the share is kept; "kept ...", a
        value or cotangent itself.
      position: among the outputs, or the terms passed on. count: how many there are of these.
    """

    record: Record
    kind: str
    position: int
    count: int


class Marks:
    """The marks of one program, by number."""

    def __init__(self, recorder: Recorder):
        self.recorder, self.known = recorder, list[Mark]()

    def observe(self, mark: Mark, *values: Any) -> None:
        self.known.append(mark)
        observe_p.bind(*values, mark=len(self.known) - 1)


@dataclass(frozen=True)
class ObservingEngine(Engine):
    """An engine whose walks, which must be traced, leave observers.

    marks: of the program. scope: the body that is walked. holder: the equation that holds it."""

    shares_steps = False  # each step has observers of its own
    marks: Any = field(default=None, metadata={"internal": True})
    scope: Any = field(default=None, metadata={"internal": True})
    holder: Any = field(default=None, metadata={"internal": True})

    @classmethod
    def marking(cls, marks: Marks, options: Mapping[str, Any]) -> "ObservingEngine":
        """The engine with a user's options. Raises TypeError for an unknown option."""
        return cls(**settings_of(Engine.of_options(options)), marks=marks, scope=marks.recorder.scope)

    def inside(self, equation: Any, label: str) -> "ObservingEngine":
        """For the body of an equation."""
        return replace(self, scope=self.scope.inside(equation, label), holder=equation)

    def record_of(self, equation: Any) -> Record:
        return self.marks.recorder.record_of(equation, scope=self.scope)

    # ------------------------------------------------------------ bodies

    def structured(self, entry: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Structured:
        if equation.primitive.name == "shard_map":
            raise NotCompiled("shard_map")
        inner = self.inside(equation, label_of(equation))
        return Engine.structured(inner, entry, equation, active, wanted)

    def plan(self, closed: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Plan:
        engine = self._in_branch(closed)
        plan = Engine.plan(engine, closed, active, wanted)
        return plan if engine is self else _PlanOfBranch(**vars(plan), engine=engine)

    def _in_branch(self, closed: Any) -> "ObservingEngine":
        is_condition = self.holder is not None and self.holder.primitive.name == "cond"
        branches = Cond.of(self.holder).branches if is_condition else ()
        taken = next((i for i, branch in enumerate(branches) if branch is closed), None)
        return self if taken is None else self.inside(self.holder, f"branch {taken}")

    def primal(self, closed: Any) -> Callable:
        engine = self._in_branch(closed)

        def run(*operands):
            return interpret(closed.jaxpr, closed.consts, operands, lambda e, xs: engine.evaluate(None, e, xs)[0])

        return run

    # ------------------------------------------------------------ the walk

    def forward(self, plan: Plan, operands: Sequence[Any]) -> tuple[list[Any], Any]:
        return Engine.forward(getattr(plan, "engine", self), plan, operands)

    def backward(self, plan: Plan, residuals: Any, cotangents: Sequence[Any]) -> list[Any]:
        return Engine.backward(getattr(plan, "engine", self), plan, residuals, cotangents)

    def evaluate(self, step: Any, equation: Any, values: list[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        record = self.record_of(equation)  # which numbers it before those in its body
        called = step is None and (has(equation, Trait.CALL) or has(equation, Trait.CUSTOM_RULE))
        if called:
            outputs, residuals = self._constant_call(equation, values), ()
        else:
            outputs, residuals = super().evaluate(step, equation, values)
        outputs = list(outputs)
        self._observe("values", record, outputs, len(outputs))
        if not called:
            self._observe_mistakes(record, equation, literals_as_arrays(equation, values), outputs)
        return outputs, residuals

    def _constant_call(self, equation: Any, values: list[Any]) -> list[Any]:
        """A call that no gradient flows through."""
        body, engine = Call.of(equation).body, self.inside(equation, label_of(equation))
        operands = literals_as_arrays(equation, values)
        return interpret(body.jaxpr, body.consts, operands, lambda e, xs: engine.evaluate(None, e, xs)[0], read_array)

    def pull(self, step: Any, env: dict, residual: Any, cts: list[Any]) -> tuple[list[Any], Iterable[Any]]:
        keys, found = super().pull(step, env, residual, cts)
        found, record = list(found), self.record_of(step.equation)
        record.rule = ", ".join(dict.fromkeys(call.rule.name for call in step.calls))
        record.targets = tuple(map(step.equation.invars.index, keys))
        self._observe("cotangents", record, cts, len(cts))
        self._observe("passed_on", record, found, len(found))
        return keys, found

    def _observe(self, kind: str, record: Record, values: Sequence[Any], count: int) -> None:
        keeps = kind != "passed_on" and self.marks.recorder.keep(record)
        for i, x in enumerate(values):
            if x is not None and has_statistics(aval_of(x)):
                self.marks.observe(Mark(record, kind, i, count), x)
            if x is not None and keeps:
                self.marks.observe(Mark(record, f"kept {kind}", i, count), x)

    def _primitive_behind(self, equation: Any) -> str:
        """What made the first operand of a quotient; "" for what no equation of this body did."""
        if equation.primitive.name != "div":
            return ""
        records = self.scope.records.values()
        made = (r.primitive for r in records if equation.invars[0] in r.equation.outvars)
        return next(made, "") if is_var(equation.invars[0]) else ""

    def _observe_mistakes(self, record: Record, equation: Any, operands: list[Any], outputs: list[Any]) -> None:
        if record.primitive == "random_bits":
            self.marks.observe(Mark(record, "key", 0, 1), operands[0])
        if has_statistics(aval_of(outputs[0])) and has_share(equation, self._primitive_behind(equation)):
            self.marks.observe(Mark(record, "saturated", 0, 1), outputs[0])
        if record.primitive == "add" and (other := epsilon_added(equation, operands)) is not None:
            self.marks.observe(Mark(record, "lost", 0, 1), other, outputs[0])


@dataclass(frozen=True, eq=False)
class _PlanOfBranch(Plan):
    """The plan of a branch, which is walked by an engine of its own."""

    engine: ObservingEngine
