"""A function that needs values (`x[x > 1]`, `float(x)`, `if x > 0`) as the program that it runs at its arguments.

It cannot be traced, but runs on a tape: each primitive that an input reaches is evaluated and recorded, and the record
is a program like any other. Decisions and Python numbers made of values are constants in it, as they are to `fb.grad`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from fnbackprop.backprop.engine import Engine
from fnbackprop.backprop.registry import lookup
from fnbackprop.backprop.tape import NEEDS_VALUES, Tape
from fnbackprop.jaxprs.avals import aval_of, is_inexact
from fnbackprop.jaxprs.escaped import read_by_rules, refuse_escaped, running_on_values
from fnbackprop.jaxprs.evaluate import as_function, bind_flat, trace_flat
from fnbackprop.jaxprs.graph import all_equations
from fnbackprop.jaxprs.staging import is_traced_elsewhere
from fnbackprop.jaxprs.types import set_current_trace, take_current_trace

from .program import Program, TracedProgram, first_line, trace_program


def traced(program: Program) -> tuple[Program, TracedProgram, list[str]]:
    """A program and its jaxpr; of one that needs values, as it runs at its arguments, with a note that says so."""
    found = None
    try:
        found = trace_program(program)
        refuse_escaped(read_by_rules(found.closed))
        return program, found, []
    except NEEDS_VALUES as error:
        operands, tree = jax.tree.flatten((program.inputs, program.others))
        # What a rule closes over has to be a number, and so cannot depend on what is recorded.
        closing = found is not None
        count = len(jax.tree.leaves(program.inputs)) if closing else None
        record = recorded(lambda *flat: [program.function(*tree.unflatten(flat))], operands, count)
        recording = program._replace(function=lambda *arguments: record(*jax.tree.leaves(arguments))[0])
        again = trace_program(recording)
        if found and any(map(is_traced_elsewhere, read_by_rules(again.closed))):
            return program, found, []  # of a function in a vmap; then no rule can be checked in place
        kind = "a rule closes over a value of it" if closing else first_line(error).split(":")[0]
        note = f"{program.name} needs values ({kind}): compared as it runs here, with what it decides held as it is"
        return recording, again, [note]


class Recorder(Tape):
    """A tape whose entries hold, in the place of a backward, each call as a function of its operands."""

    def walk(self, closed: Any, values: Sequence[Any], slots: Sequence[int | None], make_plan: Callable) -> list[Any]:
        def call(*operands: Any) -> Sequence[Any]:
            return as_function(closed)(*operands)

        with set_current_trace(self.parent):
            outputs = call(*values)
        return self.record(call, outputs, [is_inexact(v.aval) for v in closed.jaxpr.outvars], tuple(values), slots)

    def process_custom_jvp_call(self, primitive, fun, jvp, tracers, /, **params):
        return self._as_a_whole(primitive, tracers, {"subfuns": (fun, jvp), **params})

    def process_custom_vjp_call(self, primitive, fun, fwd, bwd, tracers, /, **params):
        return self._as_a_whole(primitive, tracers, {"subfuns": (fun, fwd, bwd), **params})

    def _as_a_whole(self, primitive: Any, tracers: Sequence[Any], params: dict[str, Any]) -> list[Any]:
        """A function with a rule of the user's, which stays with it."""
        values, slots = self.lower_all(tracers)
        if all(slot is None for slot in slots):
            return self.bind(primitive, values, params)
        with set_current_trace(self.parent):
            closed = trace_flat(lambda *operands: bind_flat(primitive, params, operands), values).closed
        return self.walk(closed, values, slots, self.engine.new_plan)


def recorded(function: Callable, operands: Sequence[Any], count: int | None = None) -> Callable:
    """`function` of these operands, which returns a list, as a function of any that runs the same primitives; with
    `count`, only the first so many of them may then be others."""
    with take_current_trace() as parent:
        tape = Recorder(parent, Engine())
        inputs = [tape.watch(x) if is_inexact(aval_of(x)) else x for x in operands[:count]]
        with set_current_trace(tape), running_on_values(True):
            found = function(*inputs, *operands[len(inputs) :])
        (results, slots), (_, given) = tape.lower_all(found), tape.lower_all(inputs)
        entries = list(zip(tape.entries, tape.residuals, strict=True))
        tape.invalidate()

    def run(*operands: Any) -> list[Any]:
        known = {i: x for i, x in zip(given, operands, strict=False) if i is not None}
        for (call, places, outputs), values in entries:
            pairs = zip(places, values, strict=True)
            found = call(*(value if i is None else known[i] for i, value in pairs))
            known.update((i, y) for i, y in zip(outputs, found, strict=True) if i is not None)
        return [y if i is None else known[i] for i, y in zip(slots, results, strict=True)]

    return run


def foreign_notes(closed: Any) -> list[str]:
    """Whose rules are not ours."""
    primitives = dict.fromkeys(equation.primitive for equation in all_equations(closed))
    entries = [(primitive.name, lookup(primitive)) for primitive in primitives]
    return [
        f"{name} has no hand-written rule: its derivative is the one that its author registered with JAX"
        for name, entry in entries
        if entry is not None and entry.foreign
    ]
