"""The function to be compared as a program: which of its inputs are differentiated, and its jaxpr."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.arguments import check_output, check_scalar, is_array_like, require_floating
from fnbackprop.blocks.block import tracing_plain_definitions
from fnbackprop.jaxprs.avals import aval_of, is_inexact
from fnbackprop.jaxprs.evaluate import trace_flat
from fnbackprop.jaxprs.lists import select
from fnbackprop.jaxprs.types import is_var
from fnbackprop.jaxprs.wrapped import trace_wrapped_rules

Arrays = list[Any]


class Program(NamedTuple):
    """A scalar function of two arguments: what is differentiated, and the other arrays.

    Attributes:
      function: `function(inputs, others) -> scalar`.
      inputs: a tuple of the differentiated arguments, each with None in the place of what is no number: the functions
        and keys of an Equinox model, say.
      others: the arrays among the other arguments, and keys. What is no array (a string, a function, a Python number)
        is kept as it is, so that Python may branch on it.
      argnums: the positions of the inputs among the user's arguments.
      name: of the user's function.
    """

    function: Callable[[tuple, Arrays], jax.Array]
    inputs: tuple
    others: Arrays
    argnums: tuple[int, ...]
    name: str


def make_program(fun: Callable, args: Sequence[Any], argnums: int | Sequence[int], has_aux: bool | None) -> Program:
    """Split the arguments of `fun`.

    Raises:
      TypeError: `argnums` does not name some of them, or there is nothing in these to differentiate.
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not positions or not all(-len(args) <= i < len(args) for i in positions):
        given = (
            f"the {len(args)} arguments, from 0 to {len(args) - 1}" if args else "the arguments, and none were given"
        )
        raise TypeError(f"argnums={argnums!r} must name some of {given}.")
    positions = tuple(i % len(args) for i in positions)
    chosen, rest = [args[i] for i in positions], [arg for i, arg in enumerate(args) if i not in positions]
    leaves, tree = jax.tree.flatten((chosen, rest))
    count = len(jax.tree.leaves(chosen))
    moving = [i < count and _is_number(leaf) for i, leaf in enumerate(leaves)]
    if not all(moving[:count]):
        require_floating({f"args[{i}]": args[i] for i in positions}, "compare")
    other = [not on and is_array(leaf) for on, leaf in zip(moving, leaves, strict=True)]

    def function(inputs: tuple, others: Arrays) -> jax.Array:
        given, more = iter(jax.tree.leaves(inputs)), iter(others)
        flags = zip(leaves, moving, other, strict=True)
        chosen, rest = tree.unflatten([next(given) if m else next(more) if o else leaf for leaf, m, o in flags])
        differentiated, kept = dict(zip(positions, chosen, strict=True)), iter(rest)
        out = fun(*(differentiated[i] if i in differentiated else next(kept) for i in range(len(args))))
        return out[0] if has_aux or (has_aux is None and isinstance(out, tuple)) else out

    inputs = tree.unflatten([_as_array(leaf) if on else None for leaf, on in zip(leaves, moving, strict=True)])[0]
    return Program(function, tuple(inputs), select(leaves, other), positions, name_of(fun))


def name_of(fun: Callable, with_line: bool = False) -> str:
    """The name of a function; `with_line`: and where it stands, if it tells."""
    name, place = getattr(fun, "__name__", type(fun).__name__), place_of(fun)
    return f"{name} ({os.path.basename(place)})" if with_line and place else name


def place_of(fun: Any) -> str:
    """The "file:line" of a function; empty if it does not tell."""
    code = getattr(inspect.unwrap(fun), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _is_number(leaf: Any) -> bool:
    """Whether a leaf is an array of numbers, or one: no key."""
    return is_array_like(leaf) and not jax.dtypes.issubdtype(aval_of(leaf).dtype, jax.dtypes.extended)


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if type(leaf) in (bool, int, float, complex) else leaf


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array (or a numpy scalar), and no Python number."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


class TracedProgram(NamedTuple):
    """A program's jaxpr and its operands.

    Attributes:
      closed: its jaxpr.
      operands: the flat inputs, then the flat others.
      active: which operands are differentiated: the floating inputs.
      users_mode: whether it was traced in 64-bit mode.
    """

    closed: Any
    operands: list[Any]
    active: tuple[bool, ...]
    users_mode: bool


def trace_program(program: Program) -> TracedProgram:
    """Trace the program, blocks as rules of their plain definitions."""
    operands, tree = jax.tree.flatten((program.inputs, program.others))
    with tracing_plain_definitions(True):
        closed = trace_flat(lambda *flat: program.function(*jax.tree.unflatten(tree, flat)), operands).closed
    trace_wrapped_rules(closed)
    count = len(jax.tree.leaves(program.inputs))
    active = tuple(i < count and is_inexact(v.aval) for i, v in enumerate(closed.jaxpr.invars))
    return TracedProgram(closed, operands, active, jax.config.jax_enable_x64)


def check_differentiable(traced: TracedProgram, caller: str) -> None:
    """Raise TypeError unless there is one real scalar of something to differentiate."""
    outputs = [v.aval for v in traced.closed.jaxpr.outvars]
    if len(outputs) != 1:
        raise TypeError(
            f"{caller}: fun must return a real scalar, or (scalar, aux), but it returned {len(outputs)} arrays."
        )
    value = jnp.zeros(outputs[0].shape, outputs[0].dtype)
    check_scalar(value)
    check_output(caller, False, value)
    if not any(traced.active):
        raise TypeError(f"{caller}: no floating array among what argnums names, so nothing to differentiate.")


def unused_inputs(traced: TracedProgram) -> set[int]:
    """The positions of the operands that no equation reads and that are no output."""
    jaxpr = traced.closed.jaxpr
    read = {v for e in jaxpr.eqns for v in e.invars if is_var(v)} | {v for v in jaxpr.outvars if is_var(v)}
    return {i for i, v in enumerate(jaxpr.invars) if v not in read}


LONGEST_MESSAGE = 160  # characters


def first_line(error: Exception) -> str:
    """An error, as the user's code may raise any, in one line of limited length; some have no message."""
    said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}".removesuffix(": ")
    return said if len(said) <= LONGEST_MESSAGE else f"{said[:LONGEST_MESSAGE]} ..."
