"""Arrays that jitted functions close over, made operands of these, so that no cache keeps them alive.

JAX keeps such an array in the jaxpr of the `jit`. What is cached here by jaxprs (plans, compiled backward passes) would
keep it too, long after the user's function is gone. So a traced function is changed before anything else sees it: the
constants of inner jits, also of those in loops, are handed down from the outermost jaxpr.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..jaxprs.compat import with_leading_jit_operands, with_leading_scan_constants
from ..jaxprs.types import is_closed, open_jaxpr, rebuild
from ..jaxprs.views import While


class Lifted(NamedTuple):
    """A jaxpr, closed or open as it was, whose first operands are what were constants, and these."""

    jaxpr: Any
    constants: tuple[Any, ...]


class Operands:
    """The constants of several equations as variables: the same array is the same variable."""

    def __init__(self):
        self._known: dict[int, tuple[Any, Any]] = {}

    def of(self, lifted: Lifted) -> list[Any]:
        leading = open_jaxpr(lifted.jaxpr).invars[: len(lifted.constants)]
        pairs = zip(leading, lifted.constants, strict=True)
        return [self._known.setdefault(id(value), (variable, value))[0] for variable, value in pairs]

    def variables(self) -> list[Any]:
        return [variable for variable, _ in self._known.values()]

    def values(self) -> list[Any]:
        return [value for _, value in self._known.values()]


# The one lifted form of a jaxpr; None where there is nothing to lift (a value must not hold its key).
_lifted: weakref.WeakKeyDictionary[Any, Lifted | None] = weakref.WeakKeyDictionary()


def lift(closed: Any) -> Any:
    """The same function, with the constants of inner jits among its own."""
    operands, jaxpr = Operands(), closed.jaxpr
    equations = _lift_equations(jaxpr.eqns, operands)
    if not operands.variables():
        return closed
    constants = [*jaxpr.constvars, *operands.variables()], [*closed.consts, *operands.values()]
    return rebuild(jaxpr, *constants, jaxpr.invars, equations)


def _lift_inner(inner: Any) -> Lifted:
    """An inner jaxpr (remat's is an open one) with its constants, and those of further ones, as its first operands."""
    if inner not in _lifted:
        _lifted[inner] = _new_lift(inner)
    return _lifted[inner] or Lifted(inner, ())


def _new_lift(inner: Any) -> Lifted | None:
    operands, jaxpr = Operands(), open_jaxpr(inner)
    equations = _lift_equations(jaxpr.eqns, operands)
    constants = (*getattr(inner, "consts", ()), *operands.values())
    if not constants:
        return None
    leading = [*jaxpr.constvars, *operands.variables()]
    lifted = rebuild(jaxpr, [], [], [*leading, *jaxpr.invars], equations)
    return Lifted(lifted if is_closed(inner) else lifted.jaxpr, constants)


def _lift_equations(equations: Sequence[Any], operands: Operands) -> list[Any]:
    changes = (_CHANGES.get(equation.primitive.name) for equation in equations)
    pairs = zip(equations, changes, strict=True)
    return [equation if change is None else change(equation, operands) for equation, change in pairs]


def _leading(more: Callable[[dict[str, Any], int], dict[str, Any]]) -> Callable:
    """The change of an equation that holds one jaxpr, whose constants become its first operands.

    more: (its parameters, a count) -> its parameters with that many more leading operands.
    """

    def change(equation: Any, operands: Operands) -> Any:
        inner = _lift_inner(equation.params["jaxpr"])
        if not inner.constants:
            return equation
        params = {**more(equation.params, len(inner.constants)), "jaxpr": inner.jaxpr}
        return equation.replace(invars=[*operands.of(inner), *equation.invars], params=params)

    return change


def _in_while(equation: Any, operands: Operands) -> Any:
    loop = While.of(equation)
    condition, body = _lift_inner(loop.condition), _lift_inner(loop.body)
    if not (condition.constants or body.constants):
        return equation
    condition_consts, body_consts, carry = loop.split(equation.invars)
    condition_consts, body_consts = operands.of(condition) + condition_consts, operands.of(body) + body_consts
    lifted = {
        "cond_jaxpr": condition.jaxpr,
        "cond_nconsts": len(condition_consts),
        "body_jaxpr": body.jaxpr,
        "body_nconsts": len(body_consts),
    }
    invars = [*condition_consts, *body_consts, *carry]
    return equation.replace(invars=invars, params={**equation.params, **lifted})


_CHANGES: dict[str, Callable] = {
    "jit": _leading(with_leading_jit_operands),
    "scan": _leading(with_leading_scan_constants),
    "remat2": _leading(lambda params, count: params),
    "while": _in_while,
}
