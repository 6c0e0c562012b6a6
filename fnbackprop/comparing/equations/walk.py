"""A walk over a traced program: forward, equation by equation, and back again through those that a gradient reaches.

The walker is handed what to do at an equation. It enters calls and the branches of conditions that are taken itself;
into the bodies of loops it goes with the help of `loops.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnbackprop.backprop.engine import Engine, Plan
from fnbackprop.jaxprs.avals import is_inexact, output_avals
from fnbackprop.jaxprs.custom import function_source
from fnbackprop.jaxprs.evaluate import Apply, interpret, read_array
from fnbackprop.jaxprs.primitives import Trait, has
from fnbackprop.jaxprs.types import Tracer, close_jaxpr, is_var
from fnbackprop.jaxprs.views import Call, Cond
from fnbackprop.jaxprs.wrapped import called_at
from fnbackprop.rules.calls.known_functions import function_vjp

from ..program import TracedProgram

COMPARING = str(Path(__file__).parents[1])  # the folder of this package: no line of it is the user's


class Location(NamedTuple):
    """Where an equation stands.

    Attributes:
      line: its own in the user's code; of what a library's function holds, that of the call; of a function of the
        user's that is called by `compare` itself, that of the function.
      within: the loops and branches around it, like "scan[12]/cond[1]".
    """

    line: str = ""
    within: str = ""

    def at(self, equation: Any) -> "Location":
        line = called_at(equation) or self.line
        return Location(function_source(equation)[1] or line if line.startswith(COMPARING) else line, self.within)

    def inside(self, what: str) -> "Location":
        return Location(self.line, f"{self.within}/{what}" if self.within else what)


class Visit:
    """One equation of the forward walk.

    Attributes:
      step: of the engine's plan: the equation, and which operands and outputs a gradient flows through.
      operands, outputs: its values. location: where it stands.
      inner: the plan and the visits of the call or branch that was entered in its place, or None.
    """

    def __init__(self, step: Any, operands: list[Any], location: Location):
        self.step, self.equation, self.operands, self.location = step, step.equation, operands, location
        self.outputs: Sequence[Any] = ()
        self.inner: tuple[Plan, list[Visit]] | None = None

    @property
    def name(self) -> str:
        return self.equation.primitive.name

    def identity(self) -> Any:
        """The same for all iterations of a loop."""
        return id(self.equation), self.location.line, re.sub(r"\[\d+\]", "", self.location.within)


Check = Callable[[Visit, list[Any]], list[Any]]


class Walker:
    """Walks a program forward and backward.

    Args:
      evaluate: an equation's outputs, from the equation and its operands.
      check: what is done at an equation on the way back: from the visit and the cotangents of its outputs (None for
        those that are not floating) to the cotangents of its operands (None for zero).
      loops: for primitives whose bodies are walked, what does so, by name: see `loops.LOOPS`.
      thorough: walk more iterations of loops; and check loops and calls as wholes, beside what they hold.

    Attributes:
      notes: what was left out.
    """

    def __init__(
        self,
        evaluate: Callable[[Any, list[Any]], Sequence[Any]],
        check: Check,
        loops: Mapping[str, Callable[["Walker", Visit, list[Any]], list[Any]]],
        thorough: bool = False,
    ):
        self.evaluate, self.check, self.loops, self.thorough = evaluate, check, loops, thorough
        self.engine = Engine()
        self.notes: dict[str, None] = {}

    def run(self, traced: TracedProgram) -> tuple[list[Any], list[Any]]:
        """The outputs, and the operands' cotangents for a cotangent of one."""
        wanted = tuple(is_inexact(v.aval) for v in traced.closed.jaxpr.outvars)
        plan = self.engine.new_plan(traced.closed, traced.active, wanted)
        outputs, visits = self.forward(plan, [jnp.asarray(x) for x in traced.operands], Location())
        return outputs, self.backward(plan, visits, [jnp.ones_like(y) for y in outputs])

    def forward(self, plan: Plan, operands: Sequence[Any], around: Location) -> tuple[list[Any], list[Visit]]:
        """The outputs, and the visits of those equations that a gradient flows through."""
        visits: list[Visit] = []

        def apply(equation: Any, values: list[Any]) -> Sequence[Any]:
            step = plan.steps.get(id(equation))
            if step is None:
                return self.evaluate(equation, values)
            visit = Visit(step, values, around.at(equation))
            visit.outputs = self._outputs(visit)
            visits.append(visit)
            return visit.outputs

        return evaluate_arrays(plan.closed, operands, apply), visits

    def _outputs(self, visit: Visit) -> Sequence[Any]:
        entered = None if self._has_own_rule(visit) else enter(visit.equation, visit.operands, visit.location)
        if entered is None:
            return self.evaluate(visit.equation, visit.operands)
        closed, operands, location = entered
        active = visit.step.active[len(visit.operands) - len(operands) :]
        plan = self.engine.plan(closed, active, visit.step.wanted)
        outputs, visits = self.forward(plan, operands, location)
        visit.inner = plan, visits
        return outputs

    def _has_own_rule(self, visit: Visit) -> bool:
        """Whether a call is of a function that has a rule as a whole: what it holds is not differentiated."""
        step = visit.step
        return visit.name == "jit" and function_vjp(self.engine, step.equation, step.active, step.wanted) is not None

    def backward(self, plan: Plan, visits: list[Visit], cotangents: Sequence[Any]) -> list[Any]:
        """Cotangents of the jaxpr's operands, None for zero; every equation is checked on the way."""
        known: dict[Any, Any] = {}
        outvars = [v if is_var(v) else None for v in plan.closed.jaxpr.outvars]
        self.engine.add_cotangents(known, outvars, list(cotangents))
        while visits:
            visit = visits.pop()  # so that its values are freed
            equation = visit.equation
            cts = [known.pop(v, None) for v in equation.outvars]
            if all(ct is None for ct in cts):
                continue
            pairs = zip(cts, output_avals(equation), strict=True)
            cts = [self.engine.instantiate(ct, aval) if is_inexact(aval) else None for ct, aval in pairs]
            keys = [v if on else None for v, on in zip(equation.invars, visit.step.active, strict=True)]
            self.engine.add_cotangents(known, keys, self._operand_cotangents(visit, cts))
        return [known.get(v) for v in plan.closed.jaxpr.invars]

    def _operand_cotangents(self, visit: Visit, cts: list[Any]) -> list[Any]:
        if visit.inner is not None:
            found = self.backward(*visit.inner, cts)
            if self.thorough:
                self.check(visit, cts)
            return [None] * (len(visit.operands) - len(found)) + found
        if visit.name not in self.loops:
            return self.check(visit, cts)
        if self.thorough:
            self.check(visit, cts)
        return self.loops[visit.name](self, visit, cts)


def enter(equation: Any, operands: Sequence[Any], location: Location) -> tuple[Any, list[Any], Location] | None:
    """The jaxpr to evaluate in the place of a call or a condition, its operands, and where that is; else None."""
    if has(equation, Trait.CALL):
        return Call.of(equation).body, list(operands), location
    if equation.primitive.name == "cond" and not isinstance(operands[0], Tracer):
        cond = Cond.of(equation)
        if cond.platforms is None:
            index, rest = cond.split(operands)
            taken = cond.taken(index)
            return cond.branches[taken], rest, location.inside(f"cond[{taken}]")
    return None


def evaluate_arrays(closed: Any, operands: Sequence[Any], apply: Apply) -> list[Any]:
    """The outputs of a jaxpr, each equation by `apply`, in which literals are arrays."""
    closed = close_jaxpr(closed)
    return interpret(closed.jaxpr, closed.consts, operands, apply, read_array)
