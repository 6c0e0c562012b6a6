"""Tracing a function to a jaxpr, and evaluating one equation by equation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core, source_info_util

from .types import Literal

as_function = core.jaxpr_as_fun  # closed jaxpr -> a function of flat operands


class Traced(NamedTuple):
    """A traced function: its closed jaxpr and the tree of its output."""

    closed: Any
    out_tree: Any


def trace_flat(fun: Callable, args: Sequence[Any]) -> Traced:
    """Trace `fun(*args)` to a closed jaxpr. `args` are arrays, tracers or avals; the output is any pytree."""
    out_tree = None

    def flat_fun(*flat):
        nonlocal out_tree
        leaves, out_tree = jax.tree.flatten(fun(*flat))
        return leaves

    flat_fun.__name__ = getattr(fun, "__name__", "fun")
    flat_fun.__wrapped__ = fun  # JAX's messages then name the user's function and line
    closed = jax.make_jaxpr(flat_fun)(*args)
    return Traced(closed, out_tree)


def trace_avals(fun: Callable, avals: Sequence[Any]) -> Any:
    """The closed jaxpr of `fun`, a function of flat arrays that returns a flat list, at these avals."""
    return jax.make_jaxpr(fun)(*avals)


def read_atom(env: dict, atom: Any) -> Any:
    """An operand's value: a literal's own, a variable's from `env`."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def read_array(env: dict, atom: Any) -> Any:
    """As `read`, a literal as an array with a shape, for code that asks for one."""
    return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, Literal) else env[atom]


def bind(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """Apply an equation's primitive to new operands; always a list of outputs."""
    primitive = equation.primitive
    out = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return out if primitive.multiple_results else (out,)


def interpret(
    jaxpr: Any,
    consts: Sequence[Any],
    operands: Sequence[Any],
    apply: Callable[[Any, list[Any]], Sequence[Any]] = bind,
) -> list[Any]:
    """Evaluate a jaxpr, each equation by `apply(equation, operands) -> outputs` in the user's source context."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, operands, strict=True))
    for equation in jaxpr.eqns:
        with source_of(equation):
            outputs = apply(equation, [read_atom(env, atom) for atom in equation.invars])
        env.update(zip(equation.outvars, outputs, strict=True))
    return [read_atom(env, atom) for atom in jaxpr.outvars]


class source_of:  # a class, because a generator enters slower
    """The user's `named_scope`, source line and context managers, for what is emitted on an equation's behalf."""

    __slots__ = ("source", "context")

    def __init__(self, equation: Any):
        info = equation.source_info
        outer = source_info_util.current_name_stack()
        stack = outer + info.name_stack if outer.stack else info.name_stack
        self.source = source_info_util.user_context(info.traceback, name_stack=stack)
        self.context = equation.ctx.manager

    def __enter__(self) -> None:
        self.source.__enter__()
        self.context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        self.source.__exit__(*error)


def source_line(equation: Any) -> str:
    """Where the user wrote an equation: "file:line:column (function)"."""
    return source_info_util.summarize(equation.source_info)
