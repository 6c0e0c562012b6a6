"""How programs are run: by JAX, which compiles each operation and loop, or as jaxprs that numpy evaluates.

A tier evaluates single instructions, for the generator; makes a function of a case's program; and finds a gradient of
it by a given transform, `fb.vjp` or `jax.vjp`. COMPILED runs all of it eagerly. IN_NUMPY traces the program, and then
the transform of it, to one jaxpr each (so loops' rules emit what they emit under `jax.jit`), and evaluates these. What
depends on values while it is traced (the number of entries of a sparse array) is refused there.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.avals import as_weak, is_weak
from fnbackprop.jaxprs.evaluate import as_function

from .in_numpy.evaluate import Run, prepared, rounded_anew
from .programs import (
    Case,
    Instruction,
    Type,
    evaluate,
    function,
    instruction_function,
    partitions,
    place,
    sharding,
    type_of,
)
from .reference import FLOAT0

Leaves = list[np.ndarray]


class Gradient(NamedTuple):
    """A program's value, the cotangents of its outputs and the inputs' cotangents.

    weak: whether each value, and then each input's cotangent, is of weak type, as a Python number is.
    `again` finds the latter once more, for other inputs and output cotangents of the same types.
    `rounded` finds value and cotangents for the same ones, with results within rounded otherwise, by a seed; None where
    it cannot be had.
    """

    value: Sequence[Any]
    cotangents: tuple[Any, ...]
    leaves: Leaves
    weak: list[bool]
    again: Callable[[Sequence[Any], Sequence[Any]], Leaves]
    rounded: Callable[[int], tuple[Sequence[Any], Leaves]] | None = None


class Tier(NamedTuple):
    """One way of running programs."""

    name: str
    evaluate: Callable[[Instruction, Sequence[Any]], Any]
    function: Callable[[Case], Callable]
    types: Callable[[Callable, Case], Sequence[Any]]  # of the values of the function undifferentiated
    gradient: Callable[[Callable, Callable, Case], Gradient]  # (transform, the program's function, case)


def cotangents_of(values: Sequence[Any], seed: int) -> tuple[Any, ...]:
    """A normal cotangent for each output, of its type."""
    rng = np.random.default_rng(seed)
    return tuple(_normal_like(rng, y) for y in values)


def _normal_like(rng: np.random.Generator, y: Any) -> Any:
    normal = rng.normal(size=y.shape)
    is_complex = jnp.issubdtype(y.dtype, np.complexfloating)
    ct = jnp.asarray(normal + 1j * rng.normal(size=y.shape) if is_complex else normal, y.dtype)
    return place(as_weak(ct) if is_weak(y) else ct, partitions(y))


def _check_layout(inputs: Sequence[Any], leaves: Sequence[Any]) -> None:
    for x, leaf in zip(inputs, leaves, strict=True):
        if leaf.dtype != FLOAT0 and partitions(leaf) != partitions(x):
            raise ValueError(f"a cotangent laid out as {partitions(leaf)}, of an input as {partitions(x)}")


def _compiled_gradient(transform: Callable, program: Callable, case: Case) -> Gradient:
    value, pullback = transform(program, *case.inputs)
    cotangents = cotangents_of(value, case.seed)
    leaves = pullback(cotangents)
    _check_layout(case.inputs, leaves)

    def again(inputs: Sequence[Any], cotangents: Sequence[Any]) -> Leaves:
        return list(map(np.asarray, transform(program, *inputs)[1](tuple(cotangents))))

    weak = [isinstance(x, float) or is_weak(x) for x in (*value, *leaves)]  # a user's backward may return a number
    return Gradient(value, cotangents, list(map(np.asarray, leaves)), weak, again)


def _types(program: Callable, case: Case) -> Sequence[Any]:
    try:
        return jax.make_jaxpr(program)(*case.inputs).out_avals
    except jax.errors.ConcretizationTypeError:  # the program needs its inputs' values
        return program(*case.inputs)


COMPILED = Tier(
    "compiled",
    evaluate,
    lambda case: function(case.program),
    _types,
    _compiled_gradient,
)


# ---------------------------------------------------------------- in numpy


class _Traced:
    """A program as a jaxpr, called as the function that it was."""

    def __init__(self, case: Case):
        self.closed = jax.make_jaxpr(function(case.program))(*case.inputs)
        self.function = as_function(self.closed)

    def __call__(self, *inputs: Any) -> Any:
        return tuple(self.function(*inputs))


def _gradient_in_numpy(transform: Callable, program: Any, case: Case) -> Gradient:
    cotangents, count = cotangents_of(program.closed.out_avals, case.seed), len(program.closed.out_avals)

    def value_and_gradient(inputs, cotangents):
        value, pullback = transform(program, *inputs)
        return tuple(value), tuple(pullback(cotangents))

    closed = jax.make_jaxpr(value_and_gradient)(case.inputs, cotangents)
    _check_layout(case.inputs, closed.out_avals[count:])
    run = prepared(closed)

    def both(inputs: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            return run([np.asarray(x) for x in (*inputs, *cotangents)])

    found = both(case.inputs, cotangents)

    def rounded(seed: int) -> tuple[Sequence[Any], Leaves]:
        with rounded_anew(seed):
            again = both(case.inputs, cotangents)
        return again[:count], again[count:]

    weak = list(map(is_weak, closed.out_avals))
    return Gradient(found[:count], cotangents, found[count:], weak, lambda *given: both(*given)[count:], rounded)


def _evaluate_in_numpy(step: Instruction, values: Sequence[Any]) -> Any:
    operands = [values[i] for i in step.operands]
    unplaced = replace(step, operands=tuple(range(len(operands))))
    closed, run = _prepared_step(unplaced, tuple(map(type_of, operands)), tuple(map(partitions, operands)))
    with np.errstate(all="ignore"):
        (value,) = run(list(map(np.asarray, operands)))
    return place(jnp.asarray(value), partitions(closed.out_avals[0]))


@lru_cache(maxsize=1 << 15)
def _prepared_step(step: Instruction, types: tuple[Type, ...], parts: tuple[Any, ...]) -> tuple[Any, Run]:
    operands = [jax.ShapeDtypeStruct(t.shape, t.dtype, sharding=sharding(p)) for t, p in zip(types, parts, strict=True)]
    closed = jax.make_jaxpr(lambda *xs: jnp.asarray(instruction_function(step)(*xs)))(*operands)
    return closed, prepared(closed)


IN_NUMPY = Tier(
    "in numpy", _evaluate_in_numpy, _Traced, lambda program, case: program.closed.out_avals, _gradient_in_numpy
)
