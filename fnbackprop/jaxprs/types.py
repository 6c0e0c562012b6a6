"""The parts of a jaxpr by their names, and what can be said of a jaxpr without evaluating it.

A *jaxpr* is JAX's record of a traced function: a list of *equations*, each a primitive applied to operands (`invars`,
variables or literals, together *atoms*) giving outputs (`outvars`, variables). The *aval* of an atom is its type. A
*closed* jaxpr has the values of its constants (`constvars`) with it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias, TypeGuard

import jax
from jax.extend import core

from .compat import replaced_and_closed, with_constants

Equation: TypeAlias = core.JaxprEqn
Jaxpr: TypeAlias = core.Jaxpr
ClosedJaxpr: TypeAlias = core.ClosedJaxpr  # in JAX 0.12 the same as Jaxpr
Var: TypeAlias = core.Var
Literal: TypeAlias = core.Literal
Atom: TypeAlias = Var | Literal
Aval: TypeAlias = jax.core.ShapedArray
Primitive: TypeAlias = core.Primitive
Trace: TypeAlias = jax.core.Trace
Tracer: TypeAlias = jax.core.Tracer

set_current_trace, take_current_trace = core.set_current_trace, core.take_current_trace


def concrete_value(x: Any) -> Any:
    """The number behind a value, or None where it is traced."""
    return x.to_concrete_value() if isinstance(x, Tracer) else x


def is_var(atom: Atom) -> TypeGuard[Var]:
    """Whether an operand is a variable, and not a literal."""
    return not isinstance(atom, Literal)


def is_effect_free(closed: ClosedJaxpr) -> bool:
    return not closed.jaxpr.effects


def is_closed(jaxpr: Jaxpr | ClosedJaxpr) -> bool:
    """Whether a jaxpr has the values of its constants with it."""
    return hasattr(jaxpr, "consts")


def open_jaxpr(jaxpr: Jaxpr | ClosedJaxpr) -> Jaxpr:
    """The jaxpr itself, of one that may be closed."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def rebuild(
    jaxpr: Jaxpr, constvars: Sequence[Var], consts: Sequence[Any], invars: Sequence[Var], eqns: Sequence[Equation]
) -> ClosedJaxpr:
    """The jaxpr with other constants, operands (new ones come first) and equations, closed."""
    info = jaxpr.debug_info
    if info.arg_names is not None:
        info = info._replace(arg_names=("",) * (len(invars) - len(info.arg_names)) + tuple(info.arg_names))
    parts = {"constvars": list(constvars), "invars": list(invars), "eqns": list(eqns), "debug_info": info}
    return replaced_and_closed(jaxpr, consts, **parts)


def close_jaxpr(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """An open jaxpr without constants (remat's) as a closed one, the same object at each call."""
    return jaxpr if is_closed(jaxpr) else _closed(jaxpr)


@lru_cache(maxsize=4096)
def _closed(jaxpr: Jaxpr) -> ClosedJaxpr:
    return with_constants(jaxpr, ())
