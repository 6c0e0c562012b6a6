"""The users' rules inside of a function that has a rule itself.

A rule such as that of Equinox's loops, or of Optimistix's implicit derivatives, is right in itself: it differentiates
the functions that it is handed, by their rules, and is wrong where one of these is. So the function is walked forward,
and each user's rule in it is held against its primal with the operands that it has there and a Gaussian cotangent.
"""

from collections.abc import Iterable, Iterator, Sequence

from fnbackprop.jaxprs.avals import is_inexact
from fnbackprop.jaxprs.graph import holds, inner_jaxprs
from fnbackprop.jaxprs.views import Call

from ..arrays import array_norm
from ..results import Cotangent, EquationComparison
from .check import COMPILED, CUSTOM, EquationCheck
from .custom_rules import custom_rule_verdict
from .gaussian_cotangents import GaussianCotangents
from .loops import forward_iterations
from .verdict import users_name
from .walk import Visit, Walker


def wrong_inside(visit: Visit, users_mode: bool, intended: Sequence[str]) -> list[EquationComparison]:
    """The wrong rules in the primal of a user's function, the innermost ones; empty if there are none.

    Args:
      visit: of the equation with a user's rule.
      users_mode: whether the program was traced in 64-bit mode.
      intended: see `Audit`.
    """
    body = Call.of(visit.equation).body
    if not holds(body, CUSTOM):
        return []
    walker = Walker(COMPILED.values, lambda visit, cts: [], {})
    step = visit.step
    try:
        plan = walker.engine.plan(body, step.active, step.wanted)
        _, visits = walker.forward(plan, visit.operands, visit.location.inside(users_name(visit.equation)))
        return [one for inner in _custom(walker, visits) for one in _wrong(inner, users_mode, intended)]
    except Exception:  # what the function calls may refuse to be run by itself; then the whole is what is named
        return []


def _custom(walker: Walker, visits: Iterable[Visit]) -> Iterator[Visit]:
    """The visits with a user's rule among these, in the calls and at some iterations of the loops among them."""
    for visit in visits:
        if visit.name in CUSTOM:
            yield visit
        elif visit.inner is not None:
            yield from _custom(walker, visit.inner[1])
        elif _holds_custom(visit):
            for inner in forward_iterations(walker, visit):
                yield from _custom(walker, inner)


def _holds_custom(visit: Visit) -> bool:
    """Whether a user's rule stands in a body of the equation."""
    return any(holds(inner, CUSTOM) for inner in inner_jaxprs(visit.equation))


def _wrong(visit: Visit, users_mode: bool, intended: Sequence[str]) -> list[EquationComparison]:
    check = EquationCheck(visit.equation, visit.step.active, True, users_mode)
    cts = GaussianCotangents()([y for y in visit.outputs if is_inexact(y)])
    said = custom_rule_verdict(check, visit.operands, cts, Cotangent.GAUSSIAN, visit.location, intended)
    # At zero a norm in a solver's test of convergence has no slope, and a rule may say that it is 0. And an output that
    # no gradient reaches, as a count of steps, may move without a derivative: by differences that looks wrong.
    trusted = [] if said.by_differences else said.wrong
    wrong = [one for one in trusted if one.ratio or array_norm(visit.operands[one.operand])]
    return (wrong_inside(visit, users_mode, intended) or wrong) if said.wrong or said.follows else []
