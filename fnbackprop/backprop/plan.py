"""The plan of a jaxpr's backward pass, made before anything runs.

It finds which equations a gradient flows through (*active*: they depend on a differentiated input; *wanted*: an output
with a cotangent depends on them), looks up their rules, and lists the values that these read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from ..jaxprs.avals import is_inexact
from ..jaxprs.evaluate import source_line
from ..jaxprs.graph import live, reads_any
from ..jaxprs.types import ClosedJaxpr, Equation, Jaxpr, Var, is_var
from .discharge import without_references
from .memory.save_policy import BudgetError
from .missing_rule import MissingRule
from .registry import Entry, Structured, lookup
from .signatures import Rule, Where


class RuleCall(NamedTuple):
    """One rule to call in the backward walk, and the operands whose cotangents it returns: None for one that is not
    used, because another rule serves that operand."""

    rule: Rule
    targets: tuple[int | None, ...]


class PlannedEquation(NamedTuple):
    """One equation that the gradient flows through: which operands need a cotangent, which outputs have one."""

    equation: Equation
    active: tuple[bool, ...]
    wanted: tuple[bool, ...]
    calls: tuple[RuleCall, ...]
    structured: Structured | None

    def variables(self) -> list[Var]:
        """The variables whose values the rules read, which must be saved."""
        found = []
        for call in self.calls:
            for _, side, where in call.rule.saved:
                found += at(getattr(self.equation, side), where)
        return [atom for atom in found if is_var(atom)]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is known of a jaxpr's backward pass before anything runs."""

    closed: ClosedJaxpr
    steps: dict[int, PlannedEquation]  # by id of the equation, in the order of the forward walk
    saved: tuple[Var, ...]  # variables whose values the rules read
    active_out: tuple[bool, ...]
    has_cotangent: tuple[bool, ...]  # inputs that can get a cotangent
    returned: int  # how many outputs the forward walk returns
    evaluated: tuple[Equation, ...]  # by the forward walk, in order


def make_plan(
    engine: Any, closed: ClosedJaxpr, active: Sequence[bool], wanted: Sequence[bool], returned: int | None
) -> Plan:
    """The plan for these active inputs and wanted outputs. Raises MissingRule with all that are missing.

    `returned`: the forward walk returns this many of the outputs (None: all), and computes no others.
    """
    closed = without_references(closed)
    jaxpr = closed.jaxpr
    returned = len(jaxpr.outvars) if returned is None else returned
    depends = active_variables(engine, jaxpr, active)
    outputs = (v for v, w in zip(jaxpr.outvars, wanted, strict=True) if w and is_var(v))
    used = {v for v in outputs if v in depends}
    steps = _plan_equations(engine, jaxpr.eqns, depends, used)
    saved = dict.fromkeys(v for step in reversed(steps) for v in step.variables())
    return Plan(
        closed,
        {id(step.equation): step for step in steps},
        tuple(saved),
        tuple(is_var(v) and v in depends for v in jaxpr.outvars),
        tuple(v in used for v in jaxpr.invars),
        returned,
        _evaluated(jaxpr, returned, steps, saved),
    )


def _plan_equations(
    engine: Any, equations: Sequence[Equation], depends: set[Var], used: set[Var]
) -> tuple[PlannedEquation, ...]:
    """The equations that a gradient flows through; adds the variables that get a cotangent to `used`."""
    steps, missing = [], []
    for equation in reversed(equations):
        wanted = tuple([v in used for v in equation.outvars])  # of a list: a generator takes twice as long
        if not any(wanted):
            continue
        active = tuple([is_var(v) and v in depends for v in equation.invars])
        try:
            step, reached = _plan_equation(engine, equation, active, wanted)
        except MissingRule as error:
            missing[:0] = error.missing
            step, reached = None, active
        except BudgetError as error:
            raise error.at(source_line(equation)) from None
        if step is not None:
            steps.append(step)
        used.update([v for v, a, on in zip(equation.invars, active, reached, strict=True) if a and on])
    if missing:
        raise MissingRule(missing)
    return tuple(reversed(steps))


def _plan_equation(
    engine: Any, equation: Equation, active: tuple[bool, ...], wanted: tuple[bool, ...]
) -> tuple[PlannedEquation | None, tuple[bool, ...]]:
    """The plan of one equation (None: nothing flows), and which operands get a cotangent."""
    entry = lookup(equation.primitive)
    if entry is not None and entry.structured:
        structured = engine.structured(entry, equation, active, wanted)
        step = PlannedEquation(equation, active, wanted, (), structured) if any(structured.has_cotangent) else None
        return step, structured.has_cotangent
    calls = _rule_calls(entry, active, entry.given(equation.params)) if entry else None
    if calls is None:
        raise MissingRule([(equation, source_line(equation))])
    return PlannedEquation(equation, active, wanted, calls, None), active


def active_variables(engine: Any, jaxpr: Jaxpr, active: Sequence[bool]) -> set[Var]:
    """The variables that depend on an active input through differentiable primitives."""
    depends = {v for v, on in zip(jaxpr.invars, active, strict=True) if on}
    for equation in jaxpr.eqns:
        if not reads_any(equation, depends):
            continue
        entry = lookup(equation.primitive)
        if entry is not None and entry.no_gradient:
            continue
        outputs = equation.outvars
        if entry is not None and entry.activity:
            reaches = tuple(is_var(v) and v in depends for v in equation.invars)
            flags = entry.activity(engine, equation, reaches)
            outputs = [v for v, on in zip(outputs, flags, strict=True) if on]
        depends.update([v for v in outputs if is_inexact(v.aval)])
    return depends


def active_outputs(engine: Any, closed: ClosedJaxpr, active: Sequence[bool]) -> tuple[bool, ...]:
    """Which outputs of a jaxpr depend on its active inputs."""
    jaxpr = without_references(closed).jaxpr
    depends = active_variables(engine, jaxpr, active)
    return tuple(is_var(v) and v in depends for v in jaxpr.outvars)


def _evaluated(
    jaxpr: Jaxpr, returned: int, steps: Sequence[PlannedEquation], saved: dict[Var, None]
) -> tuple[Equation, ...]:
    """The equations that the returned outputs, the saved values and the structured steps need."""
    if returned == len(jaxpr.outvars):
        return tuple(jaxpr.eqns)
    inner = (v for step in steps if step.structured for v in step.equation.outvars)
    return tuple(live(jaxpr.eqns, (*jaxpr.outvars[:returned], *saved, *inner)))


@lru_cache(maxsize=4096)
def _rule_calls(entry: Entry, active: tuple[bool, ...], given: frozenset[str]) -> tuple[RuleCall, ...] | None:
    """The rules to call for the active operands, each once; None if an operand has no rule."""
    serving: dict[int, Rule] = {}
    for position in (i for i, on in enumerate(active) if on):
        rule = entry.rule_for(position, given)
        if rule is None:
            return None
        serving[position] = rule
    rules = {id(rule): rule for rule in serving.values()}.values()
    return tuple(RuleCall(rule, _targets(rule, serving, len(active))) for rule in rules)


def _targets(rule: Rule, serving: dict[int, Rule], count: int) -> tuple[int | None, ...]:
    positions = range(count) if rule.target is None else at(range(count), rule.target)
    return tuple(i if serving.get(i, rule) is rule else None for i in positions)


def at(values: Sequence[Any], where: Where) -> Sequence[Any]:
    """What stands at a position of a signature: one thing, or several for a starred name."""
    return values[where] if isinstance(where, slice) else [values[where]]
