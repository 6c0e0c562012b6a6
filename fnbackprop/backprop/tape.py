"""The same rules on a tape, for Python control flow on concrete values.

`if x > 0`, `float(x)`, an index by a value or a loop until convergence need numbers, which a traced function does not
have. Here the user's function runs on the numbers themselves. Each primitive that a differentiated value reaches is
traced on its own, to a jaxpr of one equation, and planned and walked by the engine; the tape keeps its residuals.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from ..jaxprs.avals import as_jax_array, aval_of, is_inexact, zero_tangent
from ..jaxprs.custom import IllTyped, UnboundAxis, custom_vjp_functions, jvp_function
from ..jaxprs.custom_tangents import at_zero_tangents
from ..jaxprs.escaped import ClosesOverTraced, running_on_values
from ..jaxprs.evaluate import UnknownSize, bind_flat, trace_call, trace_flat, warn_at_user, with_found_size
from ..jaxprs.types import ClosedJaxpr, Trace, Tracer, concrete_value, set_current_trace, take_current_trace
from ..jaxprs.wide_mode import any_wide, wide_mode
from . import discharge
from .engine import Engine, fit
from .registry import lookup

# What JAX raises where a function asks a traced value for its number; and what cannot be traced well.
NEEDS_VALUES = (
    ClosesOverTraced,
    IllTyped,
    UnboundAxis,
    UnknownSize,
    jax.errors.UnexpectedTracerError,  # a custom_vjp rule that closes over a value under vmap
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class ConstantWarning(UserWarning):
    """A value that a gradient depends on was used as a Python number, so that the result does not depend on it.

    Example:
        >>> import fnbackprop as fb, warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     gradient = fb.grad(lambda x: x * float(x))(3.0)  # d/dx x² would be 6
        >>> print(gradient, caught[0].category.__name__)
        3.0 ConstantWarning
    """


class EagerTracer(Tracer):
    """A concrete value with a slot on the tape, where its cotangent will be added up."""

    __slots__ = ["value", "slot"]

    def __init__(self, tape: "Tape", value: Any, slot: int):
        super().__init__(tape, aval_of(value))
        self.value, self.slot = value, slot

    def to_concrete_value(self) -> Any:
        return concrete_value(self.value)

    def full_lower(self) -> Any:
        return self

    def __float__(self) -> float:
        return self._number("float", super().__float__, float)

    def __complex__(self) -> complex:
        return self._number("complex", super().__complex__, complex)

    def _number(self, name: str, refuse: Callable, convert: Callable) -> Any:
        """The value as a Python number, which is a constant to the gradient."""
        value = self.to_concrete_value()
        if value is None:
            return refuse()
        warn_at_user(
            f"a value that the gradient depends on was made a Python number (by {name} or a function of `math`): no "
            "gradient flows through it. Use jax.numpy, or say so: float(jax.lax.stop_gradient(x)).",
            ConstantWarning,
        )
        return convert(value)

    def __repr__(self) -> str:
        return f"EagerTracer({self.value})"


def is_constant(primitive: Any) -> bool:
    """Whether no gradient flows through a primitive, as through a comparison."""
    entry = lookup(primitive)
    return entry is not None and entry.no_gradient is not None


class TapeEntry(NamedTuple):
    """One call on the tape: `pull(residuals, cotangents)`, its backward, and the slots of its operands and outputs
    (None: no cotangent)."""

    pull: Callable
    operands: tuple[int | None, ...]
    outputs: tuple[int | None, ...]


class Tape(Trace):
    """A JAX trace that evaluates each primitive at once and records those that a differentiated value reaches."""

    def __init__(self, parent: Any, engine: Engine):
        super().__init__()
        self.requires_low = False
        self.parent = self.parent_trace = parent  # the latter is JAX's name for it
        self.engine = engine
        self.entries: list[TapeEntry] = []
        self.residuals: list[Any] = []
        self.wide = False  # whether a value that is recorded has 64 bits
        self.slots = 0

    def watch(self, value: Any) -> EagerTracer:
        """A tracer for a value whose cotangent is wanted."""
        self.slots += 1
        return EagerTracer(self, value, self.slots - 1)

    def lower(self, x: Any) -> tuple[Any, int | None]:
        """A value and its slot; None for a value that is not on this tape."""
        if isinstance(x, EagerTracer) and x._trace is self:
            return x.value, x.slot
        return x, None

    def lower_all(self, tracers: Sequence[Any]) -> tuple[list[Any], list[int | None]]:
        values, slots = zip(*map(self.lower, tracers), strict=True) if tracers else ((), ())
        return list(values), list(slots)

    def stage_value(self, x):
        """A value as an array: what `jnp.asarray` asks for; one on this tape is one."""
        value, slot = self.lower(x)
        return self.parent.stage_value(value) if slot is None else x

    def process_primitive(self, primitive, tracers, params, /):
        values, slots = self.lower_all(tracers)
        if all(slot is None for slot in slots) or is_constant(primitive):
            outputs = self.bind(primitive, values, params)
        else:
            discharge.refuse(primitive, values)
            with set_current_trace(self.parent):
                values = [as_jax_array(x) for x in values]
                params = with_found_size(primitive, params, values)
                closed, kept = trace_call(primitive, params, values)
                if self.engine.in_jvp:
                    closed = at_zero_tangents(closed, [slot is not None for slot in slots])
            outputs = self.walk(closed, values, slots, self.engine.plan if kept else self.engine.new_plan)
        return outputs if primitive.multiple_results else outputs[0]

    def process_custom_jvp_call(self, primitive, fun, jvp, tracers, /, *, symbolic_zeros):
        """The user's JVP runs on the numbers, at tangents of zero, each with the slot of its value on the tape; and
        each output has the slot of its tangent. So what pulls back tangents pulls back values."""
        values, slots = self.lower_all(tracers)
        params = {"subfuns": (fun, jvp), "symbolic_zeros": symbolic_zeros}
        if all(slot is None for slot in slots):
            return self.bind(primitive, values, params)
        if self.engine.in_jvp:  # a function of tangents, linear in them
            with set_current_trace(self):
                return fun.call_wrapped(*tracers)
        engine, self.engine = self.engine, self.engine.walking_a_jvp()
        try:
            with set_current_trace(self):
                pairs = zip(values, slots, strict=True)
                tangents = [None if i is None else EagerTracer(self, zero_tangent(aval_of(x)), i) for x, i in pairs]
                outputs, tangents = jvp_function(jvp, symbolic_zeros)(values, tangents)
        finally:
            self.engine = engine
        slots = [self.lower(tangent)[1] for tangent in tangents]
        return [y if i is None else EagerTracer(self, y, i) for y, i in zip(outputs, slots, strict=True)]

    def process_custom_vjp_call(self, primitive, fun, fwd, bwd, tracers, /, *, out_trees, symbolic_zeros):
        """The user's forward runs on the numbers."""
        values, slots = self.lower_all(tracers)
        active = tuple(slot is not None for slot in slots)
        if not any(active):
            params = {"subfuns": (fun, fwd, bwd), "out_trees": out_trees, "symbolic_zeros": symbolic_zeros}
            return self.bind(primitive, values, params)
        custom = custom_vjp_functions(fwd, bwd, out_trees, symbolic_zeros)
        with set_current_trace(self.parent):
            outputs, residuals = custom.forward(values, active)
        avals, operand_avals = (tuple(map(aval_of, group)) for group in (outputs, values))

        def pull(residuals, cotangents):
            found = custom.backward(residuals, cotangents, avals)
            return [None if ct is None else fit(ct, aval) for ct, aval in zip(found, operand_avals, strict=True)]

        return self.record(pull, outputs, map(is_inexact, avals), residuals, slots)

    def process_shard_map(self, primitive, fun, tracers, /, **params):
        """As the others, but JAX takes the outputs in a tree of its own."""
        tree: Any = None

        def bind(*operands):
            nonlocal tree
            tree = primitive.bind(*operands, subfuns=(fun,), **params)
            return list(tree)

        values, slots = self.lower_all(tracers)
        if all(slot is None for slot in slots):
            with set_current_trace(self.parent):
                bind(*values)
            return tree
        with set_current_trace(self.parent):
            closed = trace_flat(bind, values).closed
        return tree.update(self.walk(closed, values, slots, self.engine.new_plan))

    def bind(self, primitive: Any, values: Sequence[Any], params: dict[str, Any]) -> list[Any]:
        """Evaluate a primitive that no differentiated value reaches."""
        with set_current_trace(self.parent):
            return bind_flat(primitive, params, values)

    def walk(
        self, closed: ClosedJaxpr, values: Sequence[Any], slots: Sequence[int | None], make_plan: Callable
    ) -> list[Any]:
        """Evaluate and record the call of one primitive, given as a jaxpr, by the engine."""
        wanted = tuple(is_inexact(v.aval) for v in closed.jaxpr.outvars)
        with set_current_trace(self.parent):
            plan = make_plan(closed, tuple(slot is not None for slot in slots), wanted)
            outputs, residuals = self.engine.forward(plan, values)
        return self.record(partial(self.engine.backward, plan), outputs, plan.active_out, residuals, slots)

    def record(
        self, pull: Callable, outputs: Sequence[Any], active: Iterable[bool], residuals: Any, slots: Sequence[Any]
    ) -> list[Any]:
        """Put a call on the tape. Returns its outputs, those that are active as tracers."""
        results = [self.watch(value) if on else value for value, on in zip(outputs, active, strict=True)]
        out_slots = tuple(self.lower(result)[1] for result in results)
        if any(slot is not None for slot in out_slots):
            self.wide = self.wide or any_wide(map(aval_of, outputs))
            self.entries.append(TapeEntry(pull, tuple(slots), out_slots))
            self.residuals.append(residuals)
        return results


def run(engine: Engine, fun: Callable, leaves: Sequence[Any]) -> tuple[list[Any], Any, Callable]:
    """Evaluate `fun(*leaves)`, which returns a flat list, on a tape.

    Returns:
        The outputs, the residuals (a pytree), and `backward(residuals, cotangents)`, which returns a cotangent for
        each leaf (None: zero).
    """
    with take_current_trace() as parent:
        tape = Tape(parent, engine)
        inputs = [tape.watch(x) if is_inexact(aval_of(x)) else x for x in leaves]
        with set_current_trace(tape), running_on_values(True):
            results = fun(*inputs)
        outputs, out_slots = zip(*map(tape.lower, results), strict=True) if results else ((), ())
        tape.invalidate()
    entries, wide, in_slots = tuple(tape.entries), tape.wide, [tape.lower(x)[1] for x in inputs]

    def backward(residuals, cotangents):
        found: dict[int, Any] = {}
        engine.add_cotangents(found, out_slots, cotangents)
        with wide_mode(wide):
            for entry, residual in zip(reversed(entries), reversed(residuals), strict=True):
                cts = [found.pop(slot, None) if slot is not None else None for slot in entry.outputs]
                if any(ct is not None for ct in cts):
                    engine.add_cotangents(found, entry.operands, entry.pull(residual, cts))
        return [None if slot is None else found.get(slot) for slot in in_slots]

    return list(outputs), list(tape.residuals), backward
