"""The trace of a function: what `jax.make_jaxpr` does of it, and equations put into it as they stand.

Under `jit`, `make_jaxpr` or in a loop's body, binding a primitive adds an equation to the function that is being
traced. JAX finds the types of its outputs anew and looks for what else the primitive might do. Where the operands have
the types that an equation had before, all that is known: the same equation is added, in a third of the time.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
from jax._src import api_util, core, linear_util, source_info_util
from jax._src.interpreters import partial_eval

from .compat import has_state, with_constants
from .types import Aval, ClosedJaxpr, Equation, Primitive

present_context = core.current_jaxpr_eqn_context  # the user's context managers, as an equation keeps them
Tracer, Trace = partial_eval.DynamicJaxprTracer, partial_eval.DynamicJaxprTrace


def trace(fun: Callable, avals: Sequence[Aval]) -> ClosedJaxpr:
    """As `jax.make_jaxpr` of a function of flat arrays that returns a list of them, without all that a `jit` does
    beside, which takes as long as tracing ten equations."""
    if any(map(has_state, avals)):
        return jax.make_jaxpr(fun)(*avals)
    info = core.DebugInfo("jit", api_util.fun_sourceinfo(fun), None, core.initial_result_paths)
    jaxpr, _, consts = partial_eval.trace_to_jaxpr_dynamic(linear_util.wrap_init(fun, debug_info=info), avals)
    return with_constants(jaxpr, consts)


def is_staging() -> bool:
    """Whether what is bound now becomes an equation of a function that is being traced."""
    return type(core.trace_ctx.trace) is Trace


def is_transposing() -> bool:
    """Whether `jax.linear_transpose` is tracing a function, however deep in it: its equations are turned around."""
    return any(isinstance(trace, partial_eval.JaxprTrace) for trace in _traces())


def is_traced_elsewhere(x: Any) -> bool:
    """Whether `x` belongs to a function that is not being traced any more, or not here."""
    return isinstance(x, core.Tracer) and all(trace is not x._trace for trace in _traces())


def _traces() -> Iterator[Any]:
    """The present trace, and those in which it was begun."""
    trace = core.trace_ctx.trace
    while trace is not None:
        yield trace
        trace = getattr(trace, "parent_trace", None)


def stage(equation: Equation, operands: Sequence[Any]) -> Sequence[Any] | None:
    """The outputs of an equation that is added to the present trace with these operands, in the present source context.

    None: nothing is being traced, an operand has another type, or the primitive has to be bound.
    """
    trace, primitive = core.trace_ctx.trace, equation.primitive
    if type(trace) is not Trace or equation.effects or not _is_ordinary(primitive):
        return None
    source, tracers = source_info_util.current(), []
    for x, atom in zip(operands, equation.invars, strict=True):
        if type(x) is not Tracer or x._trace is not trace:
            if x is not getattr(atom, "val", None):
                return None
            x = Tracer(trace, atom.aval, atom, source)
        elif x.aval is not atom.aval:  # equal ones are one object
            return None
        tracers.append(x)
    if primitive.is_high(*[x.aval for x in tracers], **equation.params):
        return None
    avals = [v.aval for v in equation.outvars]
    return trace.emit_eqn(tracers, avals, primitive, equation.params, equation.effects, source)


@lru_cache
def _is_ordinary(primitive: Primitive) -> bool:
    """Whether all that binding a primitive does, while a function is traced, is to add an equation."""
    changed = "bind_with_trace" in vars(primitive) or primitive in partial_eval.const_fold_rules
    return type(primitive) is Primitive and not (changed or primitive.ref_primitive or primitive.ref_allocating)
