"""The engine: a forward walk over a jaxpr that keeps what the rules read, and the backward walk that applies them.

`Engine.plan` decides, before anything runs, which equations a gradient flows through (*active*: they depend on a
differentiated input; *wanted*: an output with a cotangent depends on them), looks up their rules, and lists what
these read. `Engine.forward` evaluates the jaxpr and returns those values, the *residuals*; `Engine.backward` goes
from the last equation to the first.

What the driver does once, and no rule: it adds up the cotangents of a value with several uses; leaves absent ones
out (None is zero); sums the cotangent of an implicitly broadcast operand back to its shape; casts it to the operand's
dtype; takes the real part for a real operand of a complex result; and skips operands that need none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from ..jaxprs.avals import add_typed, is_inexact, zero_cotangent
from ..jaxprs.evaluate import (
    bind,
    environment,
    evaluate,
    literals_as_arrays,
    read_array,
    read_atom,
    source_line,
    source_of,
)
from ..jaxprs.graph import live
from ..jaxprs.types import Equation, Jaxpr, Var, is_var
from .discharge import without_references
from .precision import wide
from .registry import Entry, MissingRule, Place, Rule, Structured, Where, lookup


class RuleCall(NamedTuple):
    """One rule to call in the backward walk, and the operands whose cotangents it returns."""

    rule: Rule
    targets: tuple[int, ...]


class Step(NamedTuple):
    """One equation that the gradient flows through."""

    index: int
    equation: Any
    active: tuple[bool, ...]
    wanted: tuple[bool, ...]
    calls: tuple[RuleCall, ...]
    structured: Structured | None

    def variables(self) -> list[Any]:
        """The variables whose values the rules read, which must be saved."""
        values = (place for call in self.calls for place in call.rule.reads.values() if place.kind == "value")
        atoms = (_at(getattr(self.equation, place.side), place.where) for place in values)
        return [atom for found in atoms for atom in found if is_var(atom)]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is known of a jaxpr's backward pass before anything runs."""

    closed: Any
    steps: dict[int, Step]  # by position of the equation
    saved: tuple[Any, ...]  # variables whose values the rules read
    active_out: tuple[bool, ...]
    has_cotangent: tuple[bool, ...]  # inputs that can get a cotangent
    returned: int  # how many outputs the forward walk returns
    evaluated: tuple[Equation, ...]  # by the forward walk, in order
    structured: dict[int, Structured]  # of the steps that have one, by id of the equation


@dataclass(frozen=True)
class Engine:
    """The walker, with the options that reach into nested jaxprs: keywords of `fb.vjp`, `fb.grad` and their kin.

    safe_select: a cotangent that is exactly zero stays zero through every elementwise rule, even where the derivative
        is infinite or NaN, as in the untaken branch of `jnp.where(x > 0, jnp.sqrt(x), 0)` at 0. By default 0·inf is
        the NaN of the chain rule, as in JAX.
    hoist: whether sums over time of loop-invariant operands leave a reverse loop; None: where it pays (`hoisting.py`).
    budget: what each scan may stack for its backward, and each jitted function that holds products save beside its
        operands: bytes, or, up to 1, a fraction of all that its backward reads. None: of scans, the fewest bytes from
        which the rest is cheap to compute again; of the others, all that is read.
    checkpoints: how many carries a while loop keeps for its backward; with more steps, some are computed again.
    eager: run the function on its numbers, on a tape: a print or a debugger in it shows them, as under `jax.grad`. By
        default it is traced first, and run so only where it needs them (`if x > 0`, `float(x)`).
    inline: internal: walk an inner jit where it is called, for regions that choose their residuals.
    at_zero: internal: what is walked is a user's JVP, linear in its active inputs, at zero.
    """

    safe_select: bool = False
    hoist: bool | None = None
    budget: float | None = None
    checkpoints: int = 64
    eager: bool = False
    inline: bool = False
    at_zero: bool = False

    def __post_init__(self):
        if self.checkpoints < 1:
            raise ValueError(f"checkpoints must be at least 1, but got {self.checkpoints}")
        if self.budget is not None and self.budget < 0:
            raise ValueError(f"budget must be bytes, or a fraction up to 1, but got {self.budget}")

    def inlining(self) -> "Engine":
        return replace(self, inline=True)

    def walking_at_zero(self) -> "Engine":
        return replace(self, at_zero=True)

    def plan(self, closed: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Plan:
        """The plan of an inner jaxpr, cached: equal layers share one. Raises MissingRule with all that are missing."""
        return _cached_plan(self, closed, active, wanted)

    def new_plan(
        self, closed: Any, active: tuple[bool, ...], wanted: tuple[bool, ...], returned: int | None = None
    ) -> Plan:
        """As `plan`, not cached: for a jaxpr that is traced anew at every call and may hold tracers.

        `returned`: the forward walk returns this many of the outputs (default: all), and computes no others.
        """
        closed = without_references(closed)
        jaxpr = closed.jaxpr
        returned = len(jaxpr.outvars) if returned is None else returned
        depends = _activity(self, jaxpr, active)
        outputs = (v for v, w in zip(jaxpr.outvars, wanted, strict=True) if w and is_var(v))
        used = {v for v in outputs if v in depends}
        steps, saved, missing = {}, {}, []
        for index in reversed(range(len(jaxpr.eqns))):
            equation = jaxpr.eqns[index]
            wants = tuple(v in used for v in equation.outvars)
            if not any(wants):
                continue
            reaches = tuple(is_var(v) and v in depends for v in equation.invars)
            try:
                step = self._step(index, equation, reaches, wants)
            except MissingRule as error:
                missing[:0] = error.missing
                used.update(v for v, on in zip(equation.invars, reaches, strict=True) if on)
                continue
            if step is None:
                continue
            steps[index] = step
            has_cotangent = step.structured.has_cotangent if step.structured else reaches
            used.update(v for v, a, on in zip(equation.invars, reaches, has_cotangent, strict=True) if a and on)
            saved.update((v, None) for v in step.variables())
        if missing:
            raise MissingRule(missing)
        return Plan(
            closed,
            steps,
            tuple(saved),
            tuple(is_var(v) and v in depends for v in jaxpr.outvars),
            tuple(v in used for v in jaxpr.invars),
            returned,
            _evaluated(jaxpr, returned, steps, saved),
            {id(step.equation): step.structured for step in steps.values() if step.structured},
        )

    def _step(self, index: int, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Step | None:
        entry = lookup(equation.primitive)
        if entry is not None and entry.structured:
            structured = entry.structured(self, equation, active, wanted)
            return Step(index, equation, active, wanted, (), structured) if any(structured.has_cotangent) else None
        calls = _rule_calls(entry, equation, active)
        return Step(index, equation, active, wanted, calls, None)

    def active_outputs(self, closed: Any, active: tuple[bool, ...]) -> tuple[bool, ...]:
        """Which outputs of a jaxpr depend on its active inputs."""
        return _cached_active_outputs(self, closed, active)

    def forward(self, plan: Plan, operands: Sequence[Any]) -> tuple[list[Any], Any]:
        """Evaluate the jaxpr. Returns its outputs and the residuals, a pytree for `backward`."""
        jaxpr = plan.closed.jaxpr
        env = environment(jaxpr, plan.closed.consts, operands)
        inner = []

        def apply(equation, values):
            structured = plan.structured.get(id(equation))
            if structured is None:
                return bind(equation, values)
            outputs, residuals = structured.forward(*literals_as_arrays(equation, values))
            inner.append(residuals)
            return outputs

        evaluate(plan.evaluated, env, apply)
        residuals = (tuple(env[v] for v in plan.saved), tuple(inner))
        return [read_atom(env, atom) for atom in jaxpr.outvars[: plan.returned]], residuals

    def backward(self, plan: Plan, residuals: Any, cotangents: Sequence[Any]) -> list[Any]:
        """Turn the outputs' cotangents (None: zero) into the inputs' (None: zero, or not active)."""
        jaxpr = plan.closed.jaxpr
        values, inner = residuals
        env = dict(zip(plan.saved, values, strict=True))
        inner = list(inner)
        ct_env: dict[Any, Any] = {}
        for var, ct in zip(jaxpr.outvars, cotangents, strict=True):
            if ct is not None and is_var(var):
                _accumulate(ct_env, var, ct)
        for index in sorted(plan.steps, reverse=True):
            step = plan.steps[index]
            residual = inner.pop() if step.structured else None
            cts = [ct_env.pop(v, None) if w else None for v, w in zip(step.equation.outvars, step.wanted, strict=True)]
            if all(ct is None for ct in cts):
                continue
            with source_of(step.equation):
                self._pull(step, env, residual, cts, ct_env)
        return [ct_env.get(v) for v in jaxpr.invars]

    @staticmethod
    def instantiate(ct: Any, aval: Any) -> Any:
        """A cotangent, or zeros where it is None, for the structured rules that need an array."""
        return zero_cotangent(aval) if ct is None else ct

    @staticmethod
    def add_cotangents(known: dict[Any, Any], keys: Sequence[Any], cotangents: Sequence[Any]) -> None:
        """Add each cotangent that is not None to the one known under its key; a key None is skipped."""
        for key, ct in zip(keys, cotangents, strict=True):
            if key is not None and ct is not None:
                _accumulate(known, key, ct)

    def _pull(self, step: Step, env: dict, residual: Any, cts: list[Any], ct_env: dict) -> None:
        """Apply one equation's rules and add the operands' cotangents to `ct_env`."""
        invars = step.equation.invars
        if step.structured:
            found = list(enumerate(step.structured.backward(residual, cts)))
        else:
            if any(ct is None for ct in cts):
                cts = [self.instantiate(ct, v.aval) for v, ct in zip(step.equation.outvars, cts, strict=True)]
            found = [pair for call in step.calls for pair in _apply(call, step, env, cts)]
            if self.safe_select and len(cts) == 1:
                found = [(position, _where_nonzero(cts[0], ct)) for position, ct in found]
        for position, ct in found:
            if ct is not None and step.active[position]:
                _accumulate(ct_env, invars[position], fit(ct, invars[position].aval))


@lru_cache(maxsize=4096)
def _cached_plan(engine: Engine, closed: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Plan:
    return engine.new_plan(closed, active, wanted)


@lru_cache(maxsize=4096)
def _cached_active_outputs(engine: Engine, closed: Any, active: tuple[bool, ...]) -> tuple[bool, ...]:
    jaxpr = without_references(closed).jaxpr
    depends = _activity(engine, jaxpr, active)
    return tuple(is_var(v) and v in depends for v in jaxpr.outvars)


# ---------------------------------------------------------------- planning


def _activity(engine: Engine, jaxpr: Any, active: Sequence[bool]) -> set[Any]:
    """The variables that depend on an active input through differentiable primitives."""
    depends = {v for v, on in zip(jaxpr.invars, active, strict=True) if on}
    for equation in jaxpr.eqns:
        reaches = tuple(is_var(v) and v in depends for v in equation.invars)
        if not any(reaches):
            continue
        entry = lookup(equation.primitive)
        if entry is not None and entry.no_gradient:
            continue
        if entry is not None and entry.activity:
            outputs = entry.activity(engine, equation, reaches)
        else:
            outputs = (True,) * len(equation.outvars)
        pairs = zip(equation.outvars, outputs, strict=True)
        depends.update(v for v, on in pairs if on and is_inexact(v.aval))
    return depends


def _evaluated(jaxpr: Jaxpr, returned: int, steps: dict[int, Step], saved: dict[Var, None]) -> tuple[Equation, ...]:
    """The equations that the returned outputs, the saved values and the structured steps need."""
    if returned == len(jaxpr.outvars):
        return tuple(jaxpr.eqns)
    inner = (v for step in steps.values() if step.structured for v in step.equation.outvars)
    return tuple(live(jaxpr.eqns, (*jaxpr.outvars[:returned], *saved, *inner)))


def _rule_calls(entry: Entry | None, equation: Any, active: tuple[bool, ...]) -> tuple[RuleCall, ...]:
    """The rules to call for the active operands, each once."""
    rules: dict[int, Rule] = {}
    for position in (i for i, on in enumerate(active) if on):
        rule = entry.rule_for(position) if entry else None
        if rule is None:
            raise MissingRule([(equation, source_line(equation))])
        rules[id(rule)] = rule
    everything = range(len(equation.invars))
    targets = ((rule, everything if rule.target is None else _at(everything, rule.target)) for rule in rules.values())
    return tuple(RuleCall(rule, tuple(positions)) for rule, positions in targets)


def _at(values: Sequence[Any], where: Where) -> Sequence[Any]:
    """What stands at a place: one thing, or several for a starred name."""
    return values[where] if isinstance(where, slice) else [values[where]]


# ---------------------------------------------------------------- walking


def _apply(call: RuleCall, step: Step, env: dict, cts: list[Any]) -> list[tuple[int, Any]]:
    """Call one rule; pairs of operand position and cotangent."""
    rule, known = call.rule, step.equation.params
    params = known if rule.takes_all_params else {name: known[name] for name in rule.params if name in known}
    out = rule.call(*[_argument(place, step, env, cts) for place in rule.reads.values()], **params)
    if len(call.targets) == 1 and not isinstance(out, tuple | list):
        out = (out,)
    return list(zip(call.targets, out, strict=True))


def _argument(place: Place, step: Step, env: dict, cts: list[Any]) -> Any:
    """What a rule is given for one of its parameters: a tuple for a starred name."""
    kind, side, where = place
    if where is None:  # "active" or "wanted"
        return getattr(step, kind)
    found = _at(cts if kind == "cotangent" else getattr(step.equation, side), where)
    if kind == "value":
        found = [read_array(env, atom) for atom in found]
    elif kind == "aval":
        found = [atom.aval for atom in found]
    return tuple(found) if isinstance(where, slice) else found[0]


def _where_nonzero(dy: Any, dx: Any) -> Any:
    """The operand's cotangent of an elementwise rule, zero where the output's cotangent is."""
    if dx is None or dx.shape != dy.shape:
        return dx
    return lax.select(lax.eq(dy, lax.full_like(dy, 0)), lax.full_like(dx, 0), dx)


def _accumulate(ct_env: dict, var: Any, ct: Any) -> None:
    known = ct_env.get(var)
    ct_env[var] = ct if known is None else add_typed(known, ct)


def fit(ct: Any, aval: Any) -> Any:
    """A cotangent in its operand's own shape and dtype.

    The transpose of an implicit broadcast is a sum, of a cast is a cast, of real -> complex is the real part.
    """
    if ct.shape != aval.shape:
        ct = _sum_to_shape(ct, aval.shape)
    if ct.dtype != aval.dtype:
        if jnp.issubdtype(ct.dtype, jnp.complexfloating) and not jnp.issubdtype(aval.dtype, jnp.complexfloating):
            ct = lax.real(ct)
        ct = lax.convert_element_type(ct, aval.dtype)
    return ct


def _sum_to_shape(ct: Any, shape: tuple[int, ...]) -> Any:
    """Sum over the axes along which an operand of `shape` (rank 0, or with axes of size 1) was broadcast."""
    lead = ct.ndim - len(shape)
    axes = [a for a in range(ct.ndim) if a < lead or (shape[a - lead] == 1 and ct.shape[a] != 1)]
    return lax.reshape(lax.reduce_sum(wide(ct), axes), shape)
