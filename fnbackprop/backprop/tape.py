"""The same rules on a tape, for Python control flow on concrete values.

`if x > 0`, `float(x)`, an index by a value or a loop until convergence need numbers, which a traced function does not
have. Here the user's function runs on the numbers themselves. Each primitive that a differentiated value reaches is
traced on its own, to a jaxpr of one equation, and planned and walked by the engine; the tape keeps its residuals.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from ..jaxprs.avals import aval_of, is_inexact
from ..jaxprs.custom import IllTyped, new_custom_jvp, new_custom_vjp
from ..jaxprs.evaluate import trace_flat
from ..jaxprs.types import Trace, Tracer, concrete_value, set_current_trace, take_current_trace
from . import discharge

# What JAX raises where a function asks a traced value for its number; and what cannot be traced well.
NEEDS_VALUES = (
    IllTyped,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


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
        value = self.to_concrete_value()
        return super().__float__() if value is None else float(value)

    def __complex__(self) -> complex:
        value = self.to_concrete_value()
        return super().__complex__() if value is None else complex(value)

    def __repr__(self) -> str:
        return f"EagerTracer({self.value})"


class TapeEntry(NamedTuple):
    """One primitive on the tape: its plan, and the slots of its operands and outputs (None: no cotangent)."""

    plan: Any
    operands: tuple[int | None, ...]
    outputs: tuple[int | None, ...]


class Tape(Trace):
    """A JAX trace that evaluates each primitive at once and records those that a differentiated value reaches."""

    def __init__(self, parent: Any, engine: Any):
        super().__init__()
        self.requires_low = False
        self.parent, self.engine = parent, engine
        self.entries: list[TapeEntry] = []
        self.residuals: list[Any] = []
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

    def stage_value(self, x):
        """A value as an array: what `jnp.asarray` asks for; one on this tape is one."""
        value, slot = self.lower(x)
        return self.parent.stage_value(value) if slot is None else x

    def process_primitive(self, primitive, tracers, params, /):
        outputs = self.apply(primitive, tracers, params, lambda values, active: None)
        return outputs if primitive.multiple_results else outputs[0]

    def process_custom_jvp_call(self, primitive, fun, jvp, tracers, /, *, symbolic_zeros):
        def renewed(values, active):
            return new_custom_jvp(jvp, values, symbolic_zeros)

        params = {"subfuns": (fun, jvp), "symbolic_zeros": symbolic_zeros}
        return self.apply(primitive, tracers, params, renewed)

    def process_custom_vjp_call(self, primitive, fun, fwd, bwd, tracers, /, *, out_trees, symbolic_zeros):
        def renewed(values, active):
            return new_custom_vjp(fwd, bwd, values, active, out_trees)

        params = {"subfuns": (fun, fwd, bwd), "out_trees": out_trees, "symbolic_zeros": symbolic_zeros}
        return self.apply(primitive, tracers, params, renewed)

    def process_shard_map(self, primitive, fun, tracers, /, **params):
        """As the others, but JAX takes the outputs in a tree of its own."""
        tree = None

        def bind(*operands):
            nonlocal tree
            tree = primitive.bind(*operands, subfuns=(fun,), **params)
            return list(tree)

        if all(self.lower(x)[1] is None for x in tracers):
            with set_current_trace(self.parent):
                bind(*(self.lower(x)[0] for x in tracers))
            return tree
        outputs = self.apply(primitive, tracers, {}, lambda *_: bind)
        return tree.update(outputs)

    def apply(self, primitive: Any, tracers: Sequence[Any], params: dict[str, Any], renewed: Callable) -> list[Any]:
        """Evaluate a primitive; if a differentiated value reaches it, by the engine, and record it.

        `renewed(values, active)` gives a function to trace in the primitive's place, or None.
        """
        values, slots = zip(*map(self.lower, tracers), strict=True) if tracers else ((), ())

        def bind(*operands):
            out = primitive.bind(*operands, **params)
            return list(out) if primitive.multiple_results else [out]

        with set_current_trace(self.parent):
            active = tuple(slot is not None for slot in slots)
            if not any(active):
                return bind(*values)
            discharge.refuse(primitive, values)
            return self._evaluate(renewed(values, active) or bind, values, slots)

    def _evaluate(self, bind: Callable, values: Sequence[Any], slots: Sequence[int | None]) -> list[Any]:
        closed = trace_flat(bind, values).closed
        active = tuple(slot is not None for slot in slots)
        wanted = tuple(is_inexact(v.aval) for v in closed.jaxpr.outvars)
        plan = self.engine.new_plan(closed, active, wanted)
        outputs, residuals = self.engine.forward(plan, values)
        pairs = zip(outputs, plan.active_out, strict=True)
        results = [self.watch(value) if on else value for value, on in pairs]
        if any(plan.active_out):
            self.entries.append(TapeEntry(plan, tuple(slots), tuple(self.lower(r)[1] for r in results)))
            self.residuals.append(residuals)
        return results


def run(engine: Any, fun: Callable, leaves: Sequence[Any]) -> tuple[list[Any], Any, Callable]:
    """Evaluate `fun(*leaves)`, which returns a flat list, on a tape.

    Returns:
        The outputs, the residuals (a pytree), and `backward(residuals, cotangents)`, which returns a cotangent for
        each leaf (None: zero).
    """
    with take_current_trace() as parent:
        tape = Tape(parent, engine)
        inputs = [tape.watch(x) if is_inexact(aval_of(x)) else x for x in leaves]
        with set_current_trace(tape):
            results = fun(*inputs)
        outputs, out_slots = zip(*map(tape.lower, results), strict=True) if results else ((), ())
        tape.invalidate()
    entries, in_slots = tuple(tape.entries), [tape.lower(x)[1] for x in inputs]

    def backward(residuals, cotangents):
        found: dict[int, Any] = {}
        engine.add_cotangents(found, out_slots, cotangents)
        for entry, residual in zip(reversed(entries), reversed(residuals), strict=True):
            cts = [found.pop(slot, None) if slot is not None else None for slot in entry.outputs]
            if any(ct is not None for ct in cts):
                engine.add_cotangents(found, entry.operands, engine.backward(entry.plan, residual, cts))
        return [None if slot is None else found.get(slot) for slot in in_slots]

    return list(outputs), list(tape.residuals), backward
