"""The mode in which a function is evaluated again: 64-bit, if a part of it stood in `with jax.enable_x64():`.

JAX evaluates the equations and the users' rules while it traces the function, within that `with`; we, after it.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from .graph import inner_jaxprs
from .types import Equation, open_jaxpr

_WIDE = frozenset(map(jax.numpy.dtype, ("float64", "complex128", "int64", "uint64")))


def is_wide(closed: Any) -> bool:
    """Whether a jaxpr holds a 64-bit value, which JAX would narrow in 32-bit mode. Asked in 64-bit mode too: the
    pullback may be called outside."""
    jaxpr = open_jaxpr(closed)
    return any_wide([v.aval for v in (*jaxpr.constvars, *jaxpr.invars)]) or any(map(_makes_wide, jaxpr.eqns))


def _makes_wide(equation: Equation) -> bool:
    if any_wide([v.aval for v in equation.outvars]):
        return True
    return any(_makes_wide(e) for inner in inner_jaxprs(equation) for e in open_jaxpr(inner).eqns)


def wide_mode(on: bool) -> AbstractContextManager[Any]:
    """64-bit mode, or the mode as it is."""
    return jax.enable_x64(True) if on and not jax.config.jax_enable_x64 else nullcontext()


def any_wide(avals: Iterable[Any]) -> bool:
    return any(getattr(aval, "dtype", None) in _WIDE for aval in avals)
