"""Tracing a function to a jaxpr, and evaluating one equation by equation."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core, source_info_util

from .compat import trace_context
from .graph import inner_jaxprs
from .staging import present_context, stage, trace
from .types import Atom, Aval, ClosedJaxpr, Equation, Jaxpr, Literal, Primitive, Var, open_jaxpr

as_function = core.jaxpr_as_fun  # closed jaxpr -> a function of flat operands


class Traced(NamedTuple):
    """A traced function: its closed jaxpr and the tree of its output."""

    closed: ClosedJaxpr
    out_tree: Any


class UnknownSize(ValueError):
    """A sparse array's number of entries is found from values, which a traced function does not have."""


def trace_flat(fun: Callable, args: Sequence[Any]) -> Traced:
    """Trace `fun(*args)` to a closed jaxpr. `args` are arrays, tracers or avals; the output is any pytree."""
    out_tree = None

    def flat_fun(*flat):
        nonlocal out_tree
        leaves, out_tree = jax.tree.flatten(fun(*flat))
        return leaves

    flat_fun.__name__ = getattr(fun, "__name__", "fun")
    flat_fun.__wrapped__ = fun  # JAX's messages then name the user's function and line
    with _asking_for_sizes():
        return Traced(jax.make_jaxpr(flat_fun)(*args), out_tree)


def trace_leaves(fun: Callable, leaves: Sequence[Any]) -> ClosedJaxpr:
    """The closed jaxpr of `fun(*leaves)`, a function of arrays that returns a flat list."""
    with _asking_for_sizes():
        return trace(fun, list(map(jax.typeof, leaves)))


@contextmanager
def _asking_for_sizes() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UnknownSize(*error.args) if "nse must be specified" in str(error) else error from error


def trace_avals(fun: Callable, avals: Sequence[Aval]) -> ClosedJaxpr:
    """The closed jaxpr of `fun`, a function of flat arrays that returns a flat list, at these avals."""
    return trace(fun, avals)


def bind_flat(primitive: Primitive, params: dict[str, Any], operands: Sequence[Any]) -> list[Any]:
    """Bind a primitive; always a list of outputs."""
    out = primitive.bind(*operands, **params)
    return list(out) if primitive.multiple_results else [out]


def trace_call(primitive: Primitive, params: dict[str, Any], operands: Sequence[Any]) -> tuple[ClosedJaxpr, bool]:
    """The call of a primitive as a jaxpr of one equation, and whether that is kept: then an equal call at the same
    place gets the same jaxpr. Kept are calls that could hold no array: of no jaxpr, or of a small one."""
    call, avals = _Call(primitive, tuple(params.items())), tuple(map(jax.typeof, operands))
    source = source_info_util.current()
    key = call, avals, (source.traceback, source.name_stack.stack, trace_context())
    kept = all(map(_is_small, core.jaxprs_in_params(params))) and _is_hashable(key)
    return _kept_call(*key) if kept else trace_avals(call, avals), kept


def with_found_size(primitive: Primitive, params: dict[str, Any], operands: Sequence[Any]) -> dict[str, Any]:
    """`params` with the number of entries that the primitive finds from values, as `trace_call` must be told it."""
    if primitive.name != "bcoo_sum_duplicates" or params["nse"] is not None:
        return params
    _, indices = bind_flat(primitive, params, operands)
    return {**params, "nse": indices.shape[-2]}


class _Call(NamedTuple):
    """The call of a primitive, as a function of its operands."""

    primitive: Primitive
    params: tuple[tuple[str, Any], ...]

    def __call__(self, *operands: Any) -> list[Any]:
        return bind_flat(self.primitive, dict(self.params), operands)

    def __repr__(self) -> str:  # JAX asks for it at each trace
        return self.primitive.name


@lru_cache(maxsize=4096)
def _kept_call(call: _Call, avals: tuple[Aval, ...], place: Any) -> ClosedJaxpr:
    return trace_avals(call, avals)


def _is_small(jaxpr: Any) -> bool:
    inner = open_jaxpr(jaxpr)
    return len(inner.eqns) <= 4 and not inner.constvars and not any(map(inner_jaxprs, inner.eqns))


def _is_hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def bind(equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
    """Apply an equation's primitive to new operands; always a list of outputs."""
    staged = stage(equation, operands)
    if staged is not None:
        return staged
    primitive = equation.primitive
    out = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return out if primitive.multiple_results else (out,)


Apply = Callable[[Equation, list[Any]], Sequence[Any]]  # an equation and its operands' values -> its outputs
Environment = dict[Var, Any]  # the value of each variable


def read_atom(env: Environment, atom: Atom) -> Any:
    """An atom's value: a variable's from `env`, a literal's own."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def read_array(env: Environment, atom: Atom) -> Any:
    """As `read_atom`, a literal as an array with a shape and dtype, for code that asks for these."""
    return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, Literal) else env[atom]


def interpret(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    operands: Sequence[Any],
    apply: Apply = bind,
    read: Callable[[Environment, Atom], Any] = read_atom,
) -> list[Any]:
    """The outputs of a jaxpr, each equation evaluated by `apply(equation, values)` in the user's source context.

    Values may be anything that `apply` takes and returns; `read(env, atom)` makes one of a literal.
    """
    env = environment(jaxpr, consts, operands)
    evaluate(jaxpr.eqns, env, apply, read)
    return [read(env, atom) for atom in jaxpr.outvars]


def environment(jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> Environment:
    """The values that are known before the first equation."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, operands, strict=True))
    return env


def evaluate(
    equations: Iterable[Equation],
    env: Environment,
    apply: Apply = bind,
    read: Callable[[Environment, Atom], Any] = read_atom,
) -> None:
    """The loop of `interpret`: adds the equations' outputs to `env`. For some of a jaxpr's equations, or where other
    values than its outputs are read afterwards."""
    present = present_context()
    for equation in equations:
        with source_of(equation, present):
            outputs = apply(equation, [read(env, atom) for atom in equation.invars])
        env.update(zip(equation.outvars, outputs, strict=True))


def literals_as_arrays(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """The operands of an equation, those that are literals as arrays."""
    pairs = zip(equation.invars, values, strict=True)
    return [np.asarray(x, atom.aval.dtype) if isinstance(atom, Literal) else x for atom, x in pairs]


class source_of:  # a class, because a generator enters slower
    """The user's `named_scope`, source line and context managers, for what is emitted on an equation's behalf."""

    __slots__ = ("source", "context")

    def __init__(self, equation: Equation, present: Any = None):
        """present: `present_context()`, where it is known."""
        info = equation.source_info
        outer, inner = source_info_util.current_name_stack(), info.name_stack
        stack = outer + inner if outer.stack and inner.stack else inner if inner.stack else outer
        self.source = source_info_util.user_context(info.traceback, name_stack=stack)
        self.context = None if equation.ctx is (present or present_context()) else equation.ctx.manager

    def __enter__(self) -> None:
        self.source.__enter__()
        if self.context is not None:
            self.context.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.context is not None:
            self.context.__exit__(*error)
        self.source.__exit__(*error)


def named_as_forward() -> AbstractContextManager[Any]:
    """What is emitted inside is named "jvp(...)" in profiles, as JAX names a forward pass that is differentiated."""
    return source_info_util.transform_name_stack("jvp")


@contextmanager
def named_as_backward() -> Iterator[None]:
    """What is emitted inside is named "transpose(jvp(...))" in profiles, as JAX names a backward pass."""
    with source_info_util.transform_name_stack("transpose"), source_info_util.transform_name_stack("jvp"):
        yield


def source_line(equation: Equation) -> str:
    """Where the user wrote an equation: "file:line:column (function)"."""
    return source_info_util.summarize(equation.source_info)


def source_lines(equation: Equation, most: int = 64) -> list[str]:
    """The lines outside of JAX that led to an equation, as `source_line` writes them, the innermost first."""
    return source_info_util.summarize(equation.source_info, most).splitlines()[::-1]


def warn_at_user(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's code that is running, outside JAX and this package."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("fnbackprop", "jax", "functools"):
        frame = frame.f_back
    module, registry = frame.f_globals.get("__name__"), frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, module, registry)
