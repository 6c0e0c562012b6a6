"""The engine: a forward walk over a jaxpr that keeps what the rules read, and the backward walk that applies them.

`Engine.plan` (`plan.py`) decides, before anything runs, what is saved and which rules are called. `Engine.forward`
evaluates the jaxpr and returns the saved values, the *residuals*; `Engine.backward` goes from the last equation to the
first.

What the engine does once, and no rule: it adds up the cotangents of a value with several uses; leaves absent ones
out (None is zero); sums the cotangent of an implicitly broadcast operand back to its shape; casts it to the operand's
dtype; takes the real part for a real operand of a complex result; and skips operands that need none.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from ..jaxprs.avals import add_typed, cotangent_aval, cotangent_sharding, is_hijax, lay_out, zero_cotangent
from ..jaxprs.evaluate import (
    as_function,
    bind,
    environment,
    evaluate,
    literals_as_arrays,
    read_array,
    read_atom,
    source_line,
    source_of,
)
from ..jaxprs.primitives import Trait, has
from ..jaxprs.staging import is_staging, present_context
from ..jaxprs.types import Aval, ClosedJaxpr, Equation, Var, is_var
from . import registry
from .jvp_by_rules import bind_with_jvp, is_wrong_in_jax
from .memory.save_policy import check_limits
from .plan import Plan, PlannedEquation, RuleCall, active_outputs, make_plan
from .planning_notes import cached_plan
from .precision import wide
from .repeated_steps import RepeatedSteps
from .signatures import Argument, Rule

INTERNAL = {"internal": True}  # an option that no user gives


@dataclass(frozen=True)
class Engine:
    """The walker, with the options that reach into nested jaxprs: keywords of `fb.vjp`, `fb.grad` and their kin.

    safe_select: a cotangent that is exactly zero stays zero through every elementwise rule, where the derivative is
        not finite too, as in the untaken branch of `jnp.where(x > 0, jnp.sqrt(x), 0)`; by default 0·inf is NaN.
    hoist: whether sums over time of loop-invariant operands leave a reverse loop; None: where it pays.
    budget: what each scan may stack for its backward, and each jitted function that holds products save beside its
        operands: bytes, or, up to 1, a fraction of all that its backward reads. None: of scans, the fewest bytes from
        which the rest is cheap to compute again; of the others, all that is read.
    checkpoints: how many carries a while loop keeps for its backward; with more steps, some are computed again.
    eager: run the function on its numbers, on a tape: a print or a debugger in it shows them, as under `jax.grad`. By
        default it is traced first, and run so only where it needs them (`if x > 0`, `float(x)`).
    foreign: whether a primitive without a rule may be differentiated as its author told JAX (with a warning).
    fuse: run blocks where attention or cross-entropy is written out in plain JAX (`fb.fusions` lists where).
    inline: internal: walk an inner jit where it is called, for regions that choose their residuals.
    policy: internal: of the `jax.checkpoint` around, which says what branches save too.
    in_jvp: internal: what is walked is a user's JVP, linear in its active inputs, at zero.
    generation: internal: of the registry. What is cached by engine is made anew once another rule is registered.
    """

    safe_select: bool = False
    hoist: bool | None = None
    budget: float | None = None
    checkpoints: int = 64
    eager: bool = False
    foreign: bool = True
    fuse: bool = False
    inline: bool = field(default=False, metadata=INTERNAL)
    policy: Callable | None = field(default=None, metadata=INTERNAL)
    in_jvp: bool = field(default=False, metadata=INTERNAL)
    generation: int = field(default_factory=registry.generation, metadata=INTERNAL)

    shares_steps: ClassVar[bool] = True  # whether equal steps of a traced backward walk may share what they emit

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> "Engine":
        """The engine with a user's options, given by keyword. Raises TypeError for one that is unknown, ValueError for
        what it cannot be."""
        known = [f.name for f in fields(cls) if not f.metadata]
        for name in options:
            if name not in known:
                raise TypeError(f"unexpected option {name!r}; the options are {', '.join(known)}")
        engine = cls(**options)
        check_limits(engine.budget, engine.checkpoints)
        return engine

    def inlining(self) -> "Engine":
        return replace(self, inline=True)

    def walking_a_jvp(self) -> "Engine":
        return replace(self, in_jvp=True)

    def plan(self, closed: ClosedJaxpr, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Plan:
        """The plan of an inner jaxpr, cached: equal layers share one. Raises MissingRule with all that are missing."""
        return _cached_plan(self, closed, active, wanted)

    def new_plan(
        self, closed: ClosedJaxpr, active: Sequence[bool], wanted: Sequence[bool], returned: int | None = None
    ) -> Plan:
        """As `plan`, not cached: for a jaxpr that is traced anew at every call and may hold tracers.

        `returned`: the forward walk returns this many of the outputs (None: all), and computes no others.
        """
        return make_plan(self, closed, active, wanted, returned)

    def active_outputs(self, closed: ClosedJaxpr, active: tuple[bool, ...]) -> tuple[bool, ...]:
        """Which outputs of a jaxpr depend on its active inputs."""
        return _cached_active_outputs(self, closed, active)

    def forward(self, plan: Plan, operands: Sequence[Any]) -> tuple[list[Any], Any]:
        """Evaluate the jaxpr. Returns its outputs and the residuals, a pytree for `backward`."""
        jaxpr = plan.closed.jaxpr
        env = environment(jaxpr, plan.closed.consts, operands)
        inner = []

        def apply(equation: Equation, values: list[Any]) -> Sequence[Any]:
            outputs, residuals = self.evaluate(plan.steps.get(id(equation)), equation, values)
            inner.extend(residuals)
            return outputs

        evaluate(plan.evaluated, env, apply)
        residuals = (tuple(env[v] for v in plan.saved), tuple(inner))
        return [read_atom(env, atom) for atom in jaxpr.outvars[: plan.returned]], residuals

    def backward(self, plan: Plan, residuals: Any, cotangents: Sequence[Any]) -> list[Any]:
        """Turn the outputs' cotangents (None: zero) into the inputs' (None: zero, or not active)."""
        jaxpr = plan.closed.jaxpr
        values, inner = residuals
        env, inner, present = dict(zip(plan.saved, values, strict=True)), list(inner), present_context()
        ct_env: dict[Var, Any] = {}
        self.add_cotangents(ct_env, [v if is_var(v) else None for v in jaxpr.outvars], cotangents)
        pull = RepeatedSteps(self).pull if self.shares_steps and is_staging() else self.pull
        for step in reversed(plan.steps.values()):
            residual = inner.pop() if step.structured else None
            cts = [ct_env.pop(v, None) if w else None for v, w in zip(step.equation.outvars, step.wanted, strict=True)]
            if all(ct is None for ct in cts):
                continue
            with source_of(step.equation, present):
                self.add_cotangents(ct_env, *pull(step, env, residual, cts))
        return [ct_env.get(v) for v in jaxpr.invars]

    def evaluate(
        self, step: PlannedEquation | None, equation: Equation, values: list[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """The outputs of one equation of the forward walk, and its residuals: of a structured step, one pytree."""
        if step is None or step.structured is None:
            if step is not None and is_wrong_in_jax(equation, step.active):
                operands = literals_as_arrays(equation, values)
                return bind_with_jvp(self, equation.primitive, equation.params, operands), ()
            return bind(equation, values), ()
        outputs, residuals = step.structured.forward(*literals_as_arrays(equation, values))
        return outputs, (residuals,)

    primal: ClassVar[Callable] = staticmethod(as_function)  # a body as a function, for forwards that keep nothing

    def structured(
        self, entry: registry.Entry, equation: Equation, active: tuple[bool, ...], wanted: tuple[bool, ...]
    ) -> registry.Structured:
        """How the engine walks an equation that has a structured rule."""
        assert entry.structured is not None
        return entry.structured(self, equation, active, wanted)

    @staticmethod
    def instantiate(ct: Any, aval: Aval) -> Any:
        """A cotangent, or zeros where it is None, for the structured rules that need an array."""
        return zero_cotangent(aval) if ct is None else ct

    def add_cotangents(self, known: dict[Any, Any], keys: Sequence[Any], cotangents: Iterable[Any]) -> None:
        """Add each cotangent that is not None to the one known under its key; a key None is skipped."""
        for key, ct in zip(keys, cotangents, strict=True):
            if key is not None and ct is not None:
                _accumulate(known, key, ct)

    def _apply(self, call: RuleCall, step: PlannedEquation, env: dict, cts: list[Any]) -> list[tuple[int, Any]]:
        """Call one rule; pairs of operand position and cotangent."""
        rule, known = call.rule, step.equation.params
        params = known if rule.takes_all_params else {name: known[name] for name in rule.params if name in known}
        out = rule.call(*[_argument(argument, step, env, cts) for argument in rule.arguments], **params)
        if not isinstance(out, tuple | list):
            out = (out,)
        if len(out) != len(call.targets):
            raise TypeError(
                f"the VJP rule {rule.name} returned {len(out)} cotangents for {len(call.targets)} operands of "
                f"{step.equation.primitive.name}: return one for each operand, None for zero, or register it with wrt=."
            )
        if self.safe_select and _may_multiply_zero_by_infinity(rule, step.equation):
            out = [_zero_where_dy_is(cts[0], ct) for ct in out]
        return list(zip(call.targets, out, strict=True))

    def pull(self, step: PlannedEquation, env: dict, residual: Any, cts: list[Any]) -> tuple[list[Var], Iterable[Any]]:
        """Apply one equation's rules: the operands that get a cotangent, and each one's, a term of its sum."""
        found = self.apply_rules(step, env, residual, cts)
        return [step.equation.invars[i] for i, _ in found], (self.fitted(step, i, ct) for i, ct in found)

    def apply_rules(self, step: PlannedEquation, env: dict, residual: Any, cts: list[Any]) -> list[tuple[int, Any]]:
        """The positions of the operands that get a cotangent, and each one's as the rules return it."""
        if step.structured:
            found = list(enumerate(step.structured.backward(residual, cts)))
        else:
            if len(cts) > 1 and any(ct is None for ct in cts):
                cts = [self.instantiate(ct, v.aval) for v, ct in zip(step.equation.outvars, cts, strict=True)]
            found = [pair for call in step.calls for pair in self._apply(call, step, env, cts)]
        return [(i, ct) for i, ct in found if ct is not None and i is not None and step.active[i]]

    @staticmethod
    def fitted(step: PlannedEquation, position: int, ct: Any) -> Any:
        """The cotangent of an operand, in the operand's shape and dtype."""
        try:
            return fit(ct, step.equation.invars[position].aval)
        except WrongShape as error:
            rules = ", ".join(call.rule.name for call in step.calls if position in call.targets)
            raise WrongShape(
                f"the VJP rule {rules or 'of ' + step.equation.primitive.name} returned a wrong cotangent for operand "
                f"{position} of {step.equation.primitive.name}: {error}, at {source_line(step.equation)}"
            ) from None


@cached_plan
def _cached_plan(engine: Engine, closed: ClosedJaxpr, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Plan:
    return make_plan(engine, closed, active, wanted, None)


@lru_cache(maxsize=4096)
def _cached_active_outputs(engine: Engine, closed: ClosedJaxpr, active: tuple[bool, ...]) -> tuple[bool, ...]:
    return active_outputs(engine, closed, active)


# ---------------------------------------------------------------- walking


def _argument(argument: Argument, step: PlannedEquation, env: dict, cts: list[Any]) -> Any:
    """What a rule is given for one of its parameters: a tuple for a starred name."""
    kind, side, where = argument
    if where is None:  # "active" or "wanted"
        return getattr(step, kind)
    found = cts[where] if kind == "cotangent" else getattr(step.equation, side)[where]
    if not isinstance(where, slice):
        return read_array(env, found) if kind == "value" else found.aval if kind == "aval" else found
    if kind == "value":
        return tuple(read_array(env, atom) for atom in found)
    return tuple(atom.aval for atom in found) if kind == "aval" else tuple(found)


def _may_multiply_zero_by_infinity(rule: Rule, equation: Equation) -> bool:
    """Whether a rule multiplies each element of a cotangent by a number that is computed from values. (One that reads
    none maps zero to zero.)"""
    return bool(rule.saved) and (rule.is_derivative or has(equation, Trait.ELEMENTWISE))


def _zero_where_dy_is(dy: Any, dx: Any) -> Any:
    """The operand's cotangent of an elementwise rule, with the NaN of 0·inf replaced by zero. What is finite stays, a
    zero too: it depends on dy, and so the second derivative does."""
    if dx is None or dx.shape != dy.shape:
        return dx
    zero_times_infinity = lax.bitwise_and(lax.ne(dx, dx), lax.eq(dy, lax.full_like(dy, 0)))
    return lax.select(zero_times_infinity, lax.full_like(dx, 0), dx)


def _accumulate(ct_env: dict, var: Any, ct: Any) -> None:
    known = ct_env.get(var)
    ct_env[var] = ct if known is None else add_typed(known, ct)


class WrongShape(ValueError):
    """A rule returned a cotangent that is neither of its operand's shape nor of one that it is broadcast to."""


def fit(ct: Any, aval: Aval) -> Any:
    """A cotangent in its operand's own shape, dtype and, on a mesh with explicit axes, sharding.

    The transpose of an implicit broadcast is a sum, of a cast is a cast, of real -> complex is the real part.
    """
    if is_hijax(aval):
        return ct
    if ct.shape != aval.shape:
        ct = sum_to_shape(ct, aval)
    if ct.dtype != aval.dtype and ct.dtype != (dtype := cotangent_aval(aval).dtype):
        if jnp.issubdtype(ct.dtype, jnp.complexfloating) and not jnp.issubdtype(aval.dtype, jnp.complexfloating):
            ct = lax.real(ct)
        ct = lax.convert_element_type(ct, dtype)
    return ct if aval.sharding.mesh.empty else lay_out(ct, cotangent_sharding(aval))


def sum_to_shape(ct: Any, aval: Aval) -> Any:
    """Sum over the axes along which an operand of this aval (rank 0, or with axes of size 1) was broadcast."""
    shape = aval.shape
    lead = ct.ndim - len(shape)
    if lead < 0 or any(size not in (1, own) for size, own in zip(shape, ct.shape[lead:], strict=True)):
        raise WrongShape(f"its shape is {ct.shape}, the operand's is {shape}")
    axes = [a for a in range(ct.ndim) if a < lead or (shape[a - lead] == 1 and ct.shape[a] != 1)]
    return lax.reshape(lax.reduce_sum(wide(ct), axes), shape, out_sharding=cotangent_sharding(aval))
