"""Make a failing case small: every step keeps what fails.

The steps, tried until none helps: return one value; put a number in an instruction's place as a new input; use an
operand in place of a result; write a body out where it is called; do the same inside bodies; round the inputs.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from .generate import prune_body
from .programs import Case, Instruction, Program, evaluate_all, type_of


def shrink(case: Case, fails: Callable[[Case], bool], seconds: float = 60.0) -> Case:
    """The smallest case found that `fails`, within the time."""
    end = time.monotonic() + seconds
    found = True
    while found and time.monotonic() < end:
        found = False
        for smaller in _smaller(case):
            if time.monotonic() > end:
                break
            if _cost(smaller) < _cost(case) and _holds(fails, smaller):
                case, found = smaller, True
                break
    return case


def _holds(fails: Callable[[Case], bool], case: Case) -> bool:
    try:
        return fails(case)
    except Exception:  # a shrunk program that does not run is no smaller failure
        return False


def _cost(case: Case) -> tuple[int, ...]:
    """Instructions, wrappers, inputs and outputs, the length of the numbers: what shrinking lowers."""
    digits = sum(len(repr(np.asarray(x).tolist())) for x in case.inputs)
    return (case.program.size, len(case.program.outputs), len(case.inputs), digits)


def _smaller(case: Case) -> Iterator[Case]:
    program = case.program
    if len(program.outputs) > 1:
        yield from (pruned(replace(case, program=replace(program, outputs=(i,)))) for i in program.outputs)
    try:
        values = evaluate_all(case)
    except Exception:  # JAX does not run what it traces: some references in a shard_map
        return
    types = [type_of(v) for v in values]
    for index in range(len(values) - 1, len(program.types) - 1, -1):
        yield _cut(case, index, values[index])
    for index in range(len(values) - 1, len(program.types) - 1, -1):
        for other in _same_type_before(program, types, index):
            yield pruned(replace(case, program=_substitute(program, index, other)))
    yield from (pruned(replace(case, program=p)) for p in _within_bodies(program))
    yield from (pruned(replace(case, program=p)) for p in _inlined(program))
    yield from _rounded(case)


def pruned(case: Case) -> Case:
    """Without unneeded instructions and unused inputs."""
    program = prune_body(case.program)
    used = {*program.outputs, *(i for step in program.instructions for i in step.operands)}
    kept = [i for i in range(len(program.types)) if i in used]
    place = {old: new for new, old in enumerate(kept)}
    shift = len(program.types) - len(kept)
    moved = _renumbered(program, lambda i: place[i] if i < len(program.types) else i - shift)
    return replace(
        case,
        program=replace(moved, types=tuple(program.types[i] for i in kept)),
        inputs=tuple(case.inputs[i] for i in kept),
    )


def _renumbered(program: Program, place: Callable[[int], int]) -> Program:
    steps = tuple(replace(s, operands=tuple(map(place, s.operands))) for s in program.instructions)
    return replace(program, instructions=steps, outputs=tuple(map(place, program.outputs)))


def _substitute(program: Program, index: int, other: int) -> Program:
    """Use value `other` wherever `index` is used."""
    return _renumbered(program, lambda i: other if i == index else i)


def _cut(case: Case, index: int, value: Any) -> Case:
    """Make a value an input, with the number it has."""
    count = len(case.program.types)
    shifted = _renumbered(case.program, lambda i: i if i < count else i + 1)
    program = replace(_substitute(shifted, index + 1, count), types=(*case.program.types, type_of(value)))
    return pruned(replace(case, program=program, inputs=(*case.inputs, value)))


def _same_type_before(program: Program, types: list[Any], index: int) -> list[int]:
    step = program.instructions[index - len(program.types)]
    return [i for i in dict.fromkeys(step.operands) if types[i] == types[index]]


def _within_bodies(program: Program) -> Iterator[Program]:
    """The program with one of its bodies made smaller."""
    for number, step in enumerate(program.instructions):
        for place, body in enumerate(step.bodies):
            for smaller in _smaller_bodies(body):
                bodies = (*step.bodies[:place], smaller, *step.bodies[place + 1 :])
                yield _with_step(program, number, replace(step, bodies=bodies))


def _with_step(program: Program, number: int, step: Instruction) -> Program:
    steps = (*program.instructions[:number], step, *program.instructions[number + 1 :])
    return replace(program, instructions=steps)


def _smaller_bodies(body: Program) -> Iterator[Program]:
    """A body returns a value of its first operand's type; its values are only known where it is called."""
    count = len(body.types)
    for number, step in enumerate(body.instructions):
        for other in dict.fromkeys(step.operands):
            yield prune_body(_substitute(body, count + number, other))  # a type that does not fit will not run
    yield from map(prune_body, _within_bodies(body))
    yield from map(prune_body, _inlined(body))


def _inlined(program: Program) -> Iterator[Program]:
    """The program with a call of bodies replaced by the instructions of one of them."""
    count = len(program.types)
    for number, step in enumerate(program.instructions):
        for body in step.bodies:
            if len(body.types) == len(step.operands):
                yield _spliced(program, number, body, count + number)


def _spliced(program: Program, number: int, body: Program, index: int) -> Program:
    """Write the body's instructions in place of instruction `number`, whose value is `index`."""
    operands, own = program.instructions[number].operands, len(body.types)
    moved = _renumbered(body, lambda i: operands[i] if i < own else i - own + index)
    growth = len(body.instructions) - 1
    result = moved.outputs[0]

    def place(i: int) -> int:
        return i if i < index else result if i == index else i + growth

    outer = _renumbered(program, place)
    steps = (*outer.instructions[:number], *moved.instructions, *outer.instructions[number + 1 :])
    return replace(outer, instructions=steps)


def _rounded(case: Case) -> Iterator[Case]:
    """The inputs with fewer digits."""
    for digits in (0, 1, 2):
        for i, x in enumerate(case.inputs):
            if jnp.issubdtype(x.dtype, np.inexact):
                rounded = jnp.round(x, digits) + (0.0 if digits else 0.5)
                yield replace(case, inputs=(*case.inputs[:i], rounded, *case.inputs[i + 1 :]))
