"""Equal steps of a backward walk, as of equal layers: their rules are called for the first few, and then once more, to
a jaxpr, whose equations are put into the trace for all others.

Tracing an unrolled network is mostly Python in the rules and in `lax`. What a rule emits is determined by the
equation's parameters, the types of what it reads, and the user's settings, which hold for the whole walk.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..jaxprs.avals import aval_of
from ..jaxprs.evaluate import bind, environment, read_atom, trace_avals
from ..jaxprs.lists import merge, present, split
from ..jaxprs.types import Atom, ClosedJaxpr, Equation, Var, is_var
from .plan import PlannedEquation

CALLED = 3  # so often the rules of a kind are called: tracing them costs as much as three calls


class Template(NamedTuple):
    """What is emitted for one kind of step: the cotangents of the operands at these positions, first as the rules
    return them, then as they fit the operands."""

    closed: ClosedJaxpr
    positions: tuple[int, ...]

    def __call__(self, operands: Sequence[Any]) -> Iterator[Any]:
        """The cotangents, each when its equations are put into the trace: in the source context of the step at hand."""
        jaxpr = self.closed.jaxpr
        env, equations = environment(jaxpr, (), operands), iter(jaxpr.eqns)

        def read(atom: Atom) -> Any:
            while is_var(atom) and atom not in env:
                equation = next(equations)
                outputs = bind(equation, [read_atom(env, x) for x in equation.invars])
                env.update(zip(equation.outvars, outputs, strict=True))
            return read_atom(env, atom)

        returned, fitting = split(jaxpr.outvars, len(self.positions))
        for atom in returned:
            read(atom)
        for atom in fitting:
            yield read(atom)


class RepeatedSteps:
    """The steps of one backward walk that is traced, by kind."""

    def __init__(self, engine: Any):
        self.engine = engine
        self.seen: Counter[Any] = Counter()
        self.templates: dict[Any, Template | None] = {}  # None: of a kind whose rules are called each time

    def pull(
        self, step: PlannedEquation, env: dict[Var, Any], residual: Any, cts: list[Any]
    ) -> tuple[Sequence[Var], Iterable[Any]]:
        """As `Engine.pull`."""
        kind = None if step.structured else _kind(step, cts)
        self.seen[kind] += 1
        if kind is None or self.seen[kind] <= CALLED:
            return self.engine.pull(step, env, residual, cts)
        operands = [env[v] for v in step.variables()] + present(cts)
        if kind not in self.templates:
            self.templates[kind] = self._template(step, cts, operands)
        template = self.templates[kind]
        if template is None:
            return self.engine.pull(step, env, residual, cts)
        return [step.equation.invars[i] for i in template.positions], template(operands)

    def _template(self, step: PlannedEquation, cts: list[Any], operands: Sequence[Any]) -> Template | None:
        variables, given = step.variables(), [ct is not None for ct in cts]
        positions: list[int] = []

        def pull(*operands):
            values, cts = split(operands, len(variables))
            env = dict(zip(variables, values, strict=True))
            found = self.engine.apply_rules(step, env, None, merge(given, cts))
            positions[:] = [i for i, _ in found]
            return [ct for _, ct in found] + [self.engine.fitted(step, i, ct) for i, ct in found]

        try:
            closed = trace_avals(pull, list(map(aval_of, operands)))
        except Exception:  # a rule that needs the numbers of a constant, or is wrong: calling it tells
            return None
        if closed.consts or not all(_is_plain(equation, step.equation.ctx) for equation in closed.jaxpr.eqns):
            return None
        return Template(closed, tuple(positions))


def _is_plain(equation: Equation, context: Any) -> bool:
    """Whether an equation of a rule is the same wherever it stands: of this context, without effects and scopes."""
    return equation.ctx is context and not equation.effects and not equation.source_info.name_stack.stack


def _kind(step: PlannedEquation, cts: Sequence[Any]) -> Any:
    """Equal for steps whose rules emit the same equations; None where that cannot be said."""
    equation = step.equation
    atoms = (*equation.invars, *equation.outvars)
    kind = (
        equation.primitive,
        tuple((name, _exact(value)) for name, value in equation.params.items()),
        tuple(atom.aval if is_var(atom) else (atom.aval, _exact(np.asarray(atom.val)[()])) for atom in atoms),
        tuple(map(atoms.index, atoms)),  # which operands are one value
        tuple(None if ct is None else aval_of(ct) for ct in cts),
        step.calls,
        step.active,
        step.wanted,
        equation.ctx,
    )
    try:
        hash(kind)
    except TypeError:
        return None
    return kind


def _exact(value: Any) -> Any:
    """A key that is equal for the same value only, where Python finds 1, 1.0 and True equal, and 0.0 and -0.0."""
    if isinstance(value, tuple):
        return type(value), tuple(map(_exact, value))
    if isinstance(value, float | complex | np.generic):
        return type(value), np.asarray(value).tobytes()
    return type(value), value
