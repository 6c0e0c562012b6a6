"""The words of a jaxpr: its variables, literals and equations, and what can be said of one without evaluating it.

A *jaxpr* is JAX's record of a traced function: a list of *equations*, each a primitive applied to operands (`invars`,
variables or literals) giving outputs (`outvars`).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
from jax.extend import core

Literal = core.Literal


DropVar = core.DropVar


Primitive = core.Primitive


Trace, Tracer = jax.core.Trace, jax.core.Tracer


set_current_trace, take_current_trace = core.set_current_trace, core.take_current_trace


def concrete_value(x: Any) -> Any:
    """The number behind a value, or None where it is traced."""
    return x.to_concrete_value() if isinstance(x, Tracer) else x


def is_var(atom: Any) -> bool:
    """Whether an operand is a variable, and not a literal."""
    return not isinstance(atom, Literal)


def rebuild(
    jaxpr: Any, constvars: Sequence[Any], consts: Sequence[Any], invars: Sequence[Any], eqns: Sequence[Any]
) -> Any:
    """A jaxpr with other constants, operands (those that are new come first) and equations, closed."""
    info = jaxpr.debug_info
    if info.arg_names is not None:
        info = info._replace(arg_names=("",) * (len(invars) - len(info.arg_names)) + tuple(info.arg_names))
    parts = {"constvars": list(constvars), "invars": list(invars), "eqns": list(eqns), "debug_info": info}
    if hasattr(jaxpr, "with_consts"):  # JAX 0.12: a jaxpr is closed
        return jaxpr.replace(**parts, consts=list(consts))
    return core.ClosedJaxpr(jaxpr.replace(**parts), list(consts))


def counts_operands(jaxpr: Any) -> bool:
    """Whether an effect of a jaxpr names an operand by its number, as that of a mutable reference does."""
    return any(hasattr(effect, "input_index") for effect in jaxpr.effects)


def is_effect_free(closed: Any) -> bool:
    return not closed.jaxpr.effects


def close_jaxpr(jaxpr: Any) -> Any:
    """An open jaxpr without constants (remat's) as a closed one, the same object at each call."""
    return jaxpr if hasattr(jaxpr, "consts") else _closed(jaxpr)


@lru_cache(maxsize=4096)
def _closed(jaxpr: Any) -> Any:
    return core.ClosedJaxpr(jaxpr, ())
