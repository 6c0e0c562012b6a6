"""Every rule in place: a walk over the real program's values, holding each equation's rule against the automatic one.

Each equation is asked with its actual operands and twice: with the cotangent that reaches it, and with a Gaussian one.
The cotangents that travel on are the automatic ones, so no error propagates: what is found wrong is wrong itself, and
the first found is the earliest in the order of the backward walk. Calls and branches are walked in place, and the
bodies of loops for some of their iterations.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.engine import Engine, Plan
from fnbackprop.jaxprs.avals import is_inexact, output_avals
from fnbackprop.jaxprs.compat import branch_platforms
from fnbackprop.jaxprs.evaluate import read_array, source_of
from fnbackprop.jaxprs.graph import inner_jaxprs
from fnbackprop.jaxprs.types import Tracer, close_jaxpr, is_var

from ..program import TracedProgram
from ..results import EquationComparison
from ..show.status_line import first_line
from . import loops
from .check import COMPILED, CUSTOM, EquationCheck, manual_cotangents
from .verdict import Location, custom_rule_verdict, equation_verdict

CALLS = ("jit", "closed_call", "core_call", "eval_jaxpr", "remat2")
IMPLICIT = {"random_gamma": "its derivative keeps a sample's quantile, and is not that of the sampler's own steps"}
POOL = 1 << 20  # Gaussian numbers, used again and again


class Visit:
    """One equation of the forward walk: its operands, its outputs, and the walk inside it if there was one."""

    def __init__(self, step: Any, operands: list[Any], around: Location):
        self.step, self.operands = step, operands
        self.location = around.at(step.equation)
        self.inner: tuple[Plan, list[Visit]] | None = None

    def identity(self) -> Any:
        """The same for all iterations of a loop."""
        return id(self.step.equation), self.location.line, re.sub(r"\[\d+\]", "", self.location.within)


class Audit:
    """Walks a program forward and backward.

    Args:
      traced: the program.
      seed: of the Gaussian cotangents.
      intended: names of the user's functions whose rule differs from their primal's derivative on purpose.
      thorough: hold the rules of loops and calls against JAX's as wholes too, and walk all iterations.
      say: called with a line of progress.

    Attributes:
      found: the equations that did not pass, in the order of the backward walk, each rule once.
      audited: how many equations were asked, those of a loop's body once.
      replaced: lines at which a user's rule replaces the derivative on purpose.
      notes: what was left out.
      value: the function's value, computed equation by equation.
    """

    def __init__(
        self,
        traced: TracedProgram,
        seed: int = 0,
        intended: Sequence[str] = (),
        thorough: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.traced, self.intended, self.thorough, self.say = traced, tuple(intended), thorough, say
        self.engine = Engine()
        self.random = np.random.default_rng(seed)
        self.pool = self.random.standard_normal(POOL, np.float32)
        self.groups: dict[Any, tuple[EquationComparison, set]] = {}
        self.asked: set[Any] = set()
        self.replaced: dict[str, None] = {}
        self.notes: dict[str, None] = {}

    def run(self) -> "Audit":
        """Walk forward from the operands and back from a cotangent of one."""
        traced = self.traced
        wanted = tuple(is_inexact(v.aval) for v in traced.closed.jaxpr.outvars)
        plan = self.engine.new_plan(traced.closed, traced.active, wanted)
        outputs, visits = self.forward(plan, [jnp.asarray(x) for x in traced.operands], Location())
        self.value = outputs[0]
        self.cotangents = self.backward(plan, visits, [jnp.ones_like(y) for y in outputs])
        return self

    @property
    def found(self) -> tuple[EquationComparison, ...]:
        return tuple(replace(first, count=len(places)) for first, places in self.groups.values())

    @property
    def audited(self) -> int:
        return len(self.asked)

    # ------------------------------------------------------------ the two walks

    def forward(self, plan: Plan, operands: Sequence[Any], around: Location) -> tuple[list[Any], list[Visit]]:
        """Evaluate a jaxpr equation by equation; the visits of those that a gradient flows through."""
        jaxpr = plan.closed.jaxpr
        env = dict(zip(jaxpr.constvars, plan.closed.consts, strict=True))
        env.update(zip(jaxpr.invars, operands, strict=True))
        visits = []
        for index, equation in enumerate(jaxpr.eqns):
            values = [read_array(env, atom) for atom in equation.invars]
            step = plan.steps.get(index)
            with source_of(equation):
                if step is None:
                    outputs = self.evaluate(equation, values)
                else:
                    visit = Visit(step, values, around)
                    outputs = self._visit(visit)
                    visits.append(visit)
            env.update(zip(equation.outvars, outputs, strict=True))
        return [read_array(env, atom) for atom in jaxpr.outvars], visits

    def evaluate(self, equation: Any, values: list[Any]) -> Sequence[Any]:
        """One equation's outputs."""
        return COMPILED.values(equation, values)

    def walks_loop(self, name: str) -> bool:
        """Whether a primitive is a loop whose body is walked."""
        return name in loops.LOOPS

    def _visit(self, visit: Visit) -> Sequence[Any]:
        equation, operands, step = visit.step.equation, visit.operands, visit.step
        entered = _entered(equation, operands, visit.location)
        if entered is None:
            return self.evaluate(equation, operands)
        closed, skipped, location = entered
        plan = self.engine.plan(closed, step.active[skipped:], step.wanted)
        outputs, visits = self.forward(plan, operands[skipped:], location)
        visit.inner = plan, visits
        return outputs

    def backward(self, plan: Plan, visits: list[Visit], cotangents: Sequence[Any]) -> list[Any]:
        """Cotangents of the jaxpr's operands; None for zero. Asks every equation on the way."""
        known: dict[Any, Any] = {}
        self.engine.add_cotangents(
            known, [v if is_var(v) else None for v in plan.closed.jaxpr.outvars], list(cotangents)
        )
        while visits:
            visit = visits.pop()  # its values are given free
            equation = visit.step.equation
            cts = [known.pop(v, None) for v in equation.outvars]
            if all(ct is None for ct in cts):
                continue
            pairs = zip(cts, output_avals(equation), strict=True)
            cts = [self.engine.instantiate(ct, aval) if is_inexact(aval) else None for ct, aval in pairs]
            found = self._back(visit, cts)
            active = visit.step.active
            keys = [v if on else None for v, on in zip(equation.invars, active, strict=True)]
            self.engine.add_cotangents(known, keys, found)
        return [known.get(v) for v in plan.closed.jaxpr.invars]

    def _back(self, visit: Visit, cts: list[Any]) -> list[Any]:
        name = visit.step.equation.primitive.name
        if visit.inner is not None:
            plan, visits = visit.inner
            found = self.backward(plan, visits, cts)
            found = [None] * (len(visit.operands) - len(found)) + found
            if self.thorough:
                self.ask(visit, [ct for ct in cts if ct is not None])
            return found
        if self.walks_loop(name):
            if self.thorough:
                self.ask(visit, [ct for ct in cts if ct is not None])
            return loops.LOOPS[name](self, visit, cts)
        if name == "shard_map":
            return self._shards(visit, cts)
        return self.ask(visit, [ct for ct in cts if ct is not None])

    def _shards(self, visit: Visit, cts: list[Any]) -> list[Any]:
        """A `shard_map` as a whole; if it is wrong, or has rules of the user's, its body as well."""
        from .shard_map import look_inside

        before = dict(self.groups)
        found = self.ask(visit, [ct for ct in cts if ct is not None])
        body = close_jaxpr(visit.step.equation.params["jaxpr"]).jaxpr
        if before.keys() == self.groups.keys() and not holds(body, CUSTOM):
            return found
        try:
            inner = look_inside(self, visit, cts)
        except Exception as error:  # what stands in a region may refuse to be traced in parts
            self.notes[f"the shard_map at {visit.location.line} was asked as a whole only: {first_line(error)}"] = None
            return found
        if inner:  # the whole is wrong because of these
            self.groups = before
            self.note(visit, inner)
        return found

    # ------------------------------------------------------------ one equation

    def ask(self, visit: Visit, cts: list[Any]) -> list[Any]:
        """Hold one equation's rule against the automatic one; returns the automatic cotangents, by operand."""
        step = visit.step
        self.asked.add(visit.identity())
        if self.audited % 20 == 0:
            self.say(f"rules in location: {self.audited} equations")
        check = EquationCheck(step.equation, step.active, False, self.traced.users_mode)
        try:
            found = COMPILED.both(check, visit.operands, cts)
        except Exception as error:  # JAX refuses to differentiate it, or the user's code to be traced again
            what = f"{step.equation.primitive.name} at {visit.location.line}"
            self.notes[f"{what} was not asked: {first_line(error)}"] = None
            return jax.block_until_ready(manual_cotangents(check, visit.operands, cts))
        for kind, cotangents in (("actual", cts), ("Gaussian", None)):
            if cotangents is None:
                cotangents = self.gaussian(cts)
            answer = found if kind == "actual" else COMPILED.both(check, visit.operands, cotangents)
            wrong = equation_verdict(check, visit.operands, cotangents, answer, kind, visit.location)
            self.note(visit, wrong)
            if wrong:
                break
        if step.equation.primitive.name in CUSTOM:
            self.ask_custom(visit, cts)
        if (name := step.equation.primitive.name) in IMPLICIT:
            self.replaced[f"{name} at {visit.location.line}: {IMPLICIT[name]}"] = None
        result: list[Any] = [None] * len(visit.operands)
        for position, one in zip(check.targets, found, strict=True):
            result[position] = one.second
        return result

    def ask_custom(self, visit: Visit, cts: list[Any]) -> None:
        """Hold a user's rule against the derivative of its primal definition."""
        check = EquationCheck(visit.step.equation, visit.step.active, True, self.traced.users_mode)
        for kind, cotangents in (("actual", cts), ("Gaussian", self.gaussian(cts))):
            wrong, replaced, note = custom_rule_verdict(
                check, visit.operands, cotangents, kind, visit.location, self.intended
            )
            self.replaced.update(dict.fromkeys(replaced))
            self.notes.update(dict.fromkeys(note))
            self.note(visit, wrong)
            if wrong or replaced:
                break

    def note(self, visit: Visit, wrong: Sequence[EquationComparison]) -> None:
        """Keep what was found: of each rule the first, and how many equations of the program it is wrong at."""
        for one in wrong:
            first, places = self.groups.setdefault((one.primitive, one.name, one.operand), (one, set()))
            places.add(visit.identity())

    def gaussian(self, cts: Sequence[Any]) -> list[Any]:
        """A Gaussian cotangent like each of these."""
        return [self._gaussian(ct) for ct in cts]

    def _gaussian(self, ct: Any) -> Any:
        start = int(self.random.integers(POOL))
        numbers = np.resize(np.roll(self.pool[: max(ct.size, 1)] if ct.size < POOL else self.pool, start), ct.shape)
        if jnp.iscomplexobj(ct):
            numbers = numbers + 1j * numbers[..., ::-1] if numbers.ndim else numbers * (1 + 0.7j)
        return jnp.asarray(numbers, ct.dtype)


def _entered(equation: Any, operands: Sequence[Any], location: Location) -> tuple[Any, int, Location] | None:
    """The jaxpr to walk instead of this equation, how many operands it does not take, and where that is."""
    params, name = equation.params, equation.primitive.name
    if name in CALLS:
        return close_jaxpr(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]), 0, location
    known = not any(isinstance(x, Tracer) for x in operands[:1])
    if name == "cond" and known and branch_platforms(equation) is None:
        taken = int(np.clip(int(operands[0]), 0, len(params["branches"]) - 1))
        return params["branches"][taken], 1, location.inside(f"cond[{taken}]")
    return None


def holds(jaxpr: Any, names: Sequence[str]) -> bool:
    """Whether one of these primitives stands anywhere in a jaxpr."""
    return any(
        e.primitive.name in names or any(holds(getattr(inner, "jaxpr", inner), names) for inner in inner_jaxprs(e))
        for e in jaxpr.eqns
    )
