"""Values of a function that was traced, which its user's derivative rules close over.

    def loss(x):
        mask = jnp.arange(4.0)                       # traced as part of the loss
        @jax.custom_vjp
        def masked(x): ...                           # whose backward, a function for later, reads the mask

Once the loss is traced, its mask has no value any more. JAX differentiates a function while it runs, and never meets
such a mask; here the function has to be run on values, not traced.
"""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import jax
from jax._src import linear_util

from .custom import custom_jvp_jaxpr
from .graph import all_equations
from .staging import is_traced_elsewhere
from .types import ClosedJaxpr, Equation

JITTED = type(jax.jit(lambda: None))
PACKAGE = __name__.partition(".")[0]
DEPTH = 30  # of functions that close over functions
_on_values: ContextVar[bool] = ContextVar("whether the user's function runs on values", default=False)


class ClosesOverTraced(Exception):
    """A user's rule reads a value of the function that was traced; it can be run on values."""


@contextmanager
def running_on_values(on: bool) -> Iterator[None]:
    """While the user's function runs on values, nothing is refused: there is no other way left. Another one that is
    differentiated inside is traced first again."""
    before = _on_values.set(on)
    try:
        yield
    finally:
        _on_values.reset(before)


def refuse_escaped(values: Any) -> None:
    """Raise ClosesOverTraced if one of the values, which a rule reads, belongs to a trace that has ended."""
    if not _on_values.get() and any(map(is_traced_elsewhere, values)):
        raise ClosesOverTraced("a user's rule closes over a value of the function that was traced")


def read_by_custom_vjp(equation: Equation) -> list[Any]:
    """The traced values that the forward and the backward of a `custom_vjp` function close over, or the functions that
    they call, as far as can be seen. Not references: those are made operands (`discharge.py`)."""
    _, fwd, bwd = equation.primitive.get_bind_params(equation.params)["subfuns"]
    seen: set[int] = set()
    found = [x for function in (fwd, bwd) for x in _reachable(function, DEPTH, seen)]
    return [x for x in found if isinstance(x, jax.core.Tracer) and not isinstance(x.aval, jax.ref.AbstractRef)]


def read_by_rules(closed: ClosedJaxpr) -> list[Any]:
    """As `read_by_custom_vjp`, by every user's rule in a jaxpr, those of `custom_jvp` functions included."""
    found: list[Any] = []
    for equation in all_equations(closed):
        if equation.primitive.name == "custom_vjp_call":
            found += read_by_custom_vjp(equation)
        elif equation.primitive.name == "custom_jvp_call":
            with suppress(Exception):  # what the user's rule raises is told where it is needed
                found += custom_jvp_jaxpr(equation, [True] * len(equation.invars)).closed.consts
    return found


def _reachable(value: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    if depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    yield value
    for part in _parts(value):
        yield from _reachable(part, depth - 1, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, types.FunctionType):
        if (value.__module__ or "").startswith(f"{PACKAGE}."):  # what those hold is handed to them as well
            return []
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, linear_util.WrappedFun):
        return [value.f_transformed]
    if isinstance(value, JITTED):
        return [value.__wrapped__]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, jax.custom_jvp | jax.custom_vjp):
        return [part for part in vars(value).values() if callable(part)]
    if isinstance(value, list | tuple):
        return list(value)
    return list(value.values()) if isinstance(value, dict) else []


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
