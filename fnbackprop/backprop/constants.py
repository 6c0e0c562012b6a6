"""Arrays that jitted functions close over, made operands of these, so that no cache keeps them alive.

JAX keeps such an array in the jaxpr of the `jit`. What is cached here by jaxprs (plans, compiled backward passes) would
keep it too, long after the user's function is gone. So a traced function is changed before anything else sees it: the
constants of inner jits, also of those in loops, are handed down from the outermost jaxpr.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import jaxprs


class Lifted(NamedTuple):
    """A closed jaxpr whose first operands are what were constants, and these."""

    closed: Any
    constants: tuple[Any, ...]


class Operands:
    """The constants of several equations as variables: the same array is the same variable."""

    def __init__(self):
        self._known: dict[int, tuple[Any, Any]] = {}

    def of(self, lifted: Lifted) -> list[Any]:
        leading = lifted.closed.jaxpr.invars[: len(lifted.constants)]
        pairs = zip(leading, lifted.constants, strict=True)
        return [self._known.setdefault(id(value), (variable, value))[0] for variable, value in pairs]

    def variables(self) -> list[Any]:
        return [variable for variable, _ in self._known.values()]

    def values(self) -> list[Any]:
        return [value for _, value in self._known.values()]


_lifted: weakref.WeakKeyDictionary[Any, Lifted] = weakref.WeakKeyDictionary()  # a jaxpr has one lifted form


def lift(closed: Any) -> Any:
    """The same function, with the constants of inner jits among its own."""
    operands, jaxpr = Operands(), closed.jaxpr
    equations = _lift_equations(jaxpr.eqns, operands)
    if not operands.variables() or jaxprs.counts_operands(jaxpr):
        return closed
    constants = [*jaxpr.constvars, *operands.variables()], [*closed.consts, *operands.values()]
    return jaxprs.changed(jaxpr, *constants, jaxpr.invars, equations)


def _lift_inner(inner: Any) -> Lifted:
    """An inner jaxpr (remat's is an open one) with its constants, and those of further ones, as its first operands."""
    if inner in _lifted:
        return _lifted[inner]
    operands, jaxpr = Operands(), getattr(inner, "jaxpr", inner)
    equations = _lift_equations(jaxpr.eqns, operands)
    constants = (*getattr(inner, "consts", ()), *operands.values())
    if not constants or jaxprs.counts_operands(jaxpr):
        return Lifted(inner, ())
    leading = [*jaxpr.constvars, *operands.variables()]
    _lifted[inner] = Lifted(jaxprs.changed(jaxpr, [], [], [*leading, *jaxpr.invars], equations), constants)
    return _lifted[inner]


def _lift_equations(equations: Sequence[Any], operands: Operands) -> list[Any]:
    changes = (_CHANGES.get(equation.primitive.name) for equation in equations)
    pairs = zip(equations, changes, strict=True)
    return [equation if change is None else change(equation, operands) for equation, change in pairs]


def _in_jit(equation: Any, operands: Operands) -> Any:
    inner = _lift_inner(equation.params["jaxpr"])
    if not inner.constants:
        return equation
    params = jaxprs.with_leading_jit_operands(equation.params, len(inner.constants))
    return equation.replace(invars=[*operands.of(inner), *equation.invars], params={**params, "jaxpr": inner.closed})


def _in_scan(equation: Any, operands: Operands) -> Any:
    inner = _lift_inner(equation.params["jaxpr"])
    if not inner.constants:
        return equation
    params = jaxprs.with_leading_scan_constants(equation.params, len(inner.constants))
    return equation.replace(invars=[*operands.of(inner), *equation.invars], params={**params, "jaxpr": inner.closed})


def _in_while(equation: Any, operands: Operands) -> Any:
    params, first = equation.params, equation.params["cond_nconsts"]
    cond, body = _lift_inner(params["cond_jaxpr"]), _lift_inner(params["body_jaxpr"])
    if not (cond.constants or body.constants):
        return equation
    invars = [*operands.of(cond), *equation.invars[:first], *operands.of(body), *equation.invars[first:]]
    counts = {
        "cond_nconsts": first + len(cond.constants),
        "body_nconsts": params["body_nconsts"] + len(body.constants),
    }
    return equation.replace(
        invars=invars, params={**params, "cond_jaxpr": cond.closed, "body_jaxpr": body.closed, **counts}
    )


def _in_remat(equation: Any, operands: Operands) -> Any:
    inner = _lift_inner(equation.params["jaxpr"])
    if not inner.constants:
        return equation
    params = {**equation.params, "jaxpr": inner.closed.jaxpr}
    return equation.replace(invars=[*operands.of(inner), *equation.invars], params=params)


_CHANGES: dict[str, Callable] = {"jit": _in_jit, "scan": _in_scan, "while": _in_while, "remat2": _in_remat}
