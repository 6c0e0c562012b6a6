"""A jaxpr as a graph: which equation computes a value, which equations read it, and what depends on what."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from jax.extend import core

from .primitives import Trait, has
from .types import Atom, ClosedJaxpr, Equation, Jaxpr, Var, close_jaxpr, is_closed, is_var, open_jaxpr


def producers(equations: Iterable[Equation]) -> dict[Var, Equation]:
    """The equation that computes each variable."""
    return {var: equation for equation in equations for var in equation.outvars}


def reads_any(equation: Equation, variables: Collection[Var]) -> bool:
    """Whether an operand of the equation is one of these variables."""
    return any(is_var(atom) and atom in variables for atom in equation.invars)


def descendants(equations: Iterable[Equation], roots: Iterable[Var]) -> set[Var]:
    """The roots and every variable that is computed from one of them."""
    found = set(roots)
    for equation in equations:
        if reads_any(equation, found):
            found.update(equation.outvars)
    return found


def ancestors(equations: Iterable[Equation], outputs: Iterable[Atom], stop: Collection[Var] = ()) -> list[Var]:
    """The outputs and every variable that they are computed from; the search ends at the variables in `stop`, which
    are left out."""
    producer_of, found, pending = producers(equations), {}, [v for v in outputs if is_var(v)]
    while pending:
        var = pending.pop()
        if var in found or var in stop:
            continue
        found[var] = None
        if var in producer_of:
            pending += filter(is_var, producer_of[var].invars)
    return list(found)


def live(equations: Sequence[Equation], outputs: Iterable[Atom]) -> list[Equation]:
    """The equations that the outputs need, or that have effects, in order; and the observers of what these compute."""
    needed, kept = set(filter(is_var, outputs)), []
    for equation in reversed(equations):
        if equation.effects or any(v in needed for v in equation.outvars):
            kept.append(equation)
            needed.update(filter(is_var, equation.invars))
    kept.reverse()
    return with_observers(equations, kept) if any(has(e, Trait.OBSERVER) for e in equations) else kept


def with_observers(equations: Sequence[Equation], kept: Iterable[Equation]) -> list[Equation]:
    """Those of the equations that are kept, in order, and the observers that read nothing of the others."""
    chosen = set(map(id, kept))
    lost = {v for e in equations if id(e) not in chosen for v in e.outvars}
    return [e for e in equations if id(e) in chosen or (has(e, Trait.OBSERVER) and not reads_any(e, lost))]


def fixpoint(grow: Callable[[tuple[bool, ...]], Iterable[bool]], flags: Iterable[bool]) -> tuple[bool, ...]:
    """The least flags, above those given, to which `grow` adds none: what holds of a loop's carry after any number of
    steps, where `grow` says what holds after one step of a carry with these flags."""
    flags = tuple(flags)
    while True:
        grown = tuple(a or b for a, b in zip(flags, grow(flags), strict=True))
        if grown == flags:
            return flags
        flags = grown


# ---------------------------------------------------------------- equations that hold jaxprs


def inner_jaxprs(equation: Equation) -> list[Jaxpr | ClosedJaxpr]:
    """The jaxprs among an equation's parameters (bodies, branches), closed or open."""
    return list(core.jaxprs_in_params(equation.params)) if equation.params else []


def with_inner_jaxprs(equation: Equation, change: Callable[[ClosedJaxpr], ClosedJaxpr]) -> Equation:
    """The equation with each of its inner jaxprs as `change` makes it; it is called with closed ones."""

    def changed(param: Any) -> Any:
        if isinstance(param, tuple) and any(hasattr(each, "eqns") for each in param):
            return type(param)(*map(changed, param)) if hasattr(param, "_fields") else tuple(map(changed, param))
        if not hasattr(param, "eqns"):
            return param
        found = change(close_jaxpr(param))
        return found if is_closed(param) else found.jaxpr

    return equation.replace(params={name: changed(param) for name, param in equation.params.items()})


def all_equations(jaxpr: Jaxpr | ClosedJaxpr) -> Iterator[Equation]:
    """Every equation of a jaxpr, each followed by those of its inner jaxprs."""
    for equation in open_jaxpr(jaxpr).eqns:
        yield equation
        for inner in inner_jaxprs(equation):
            yield from all_equations(inner)


def holds(jaxpr: Jaxpr | ClosedJaxpr, names: Collection[str]) -> bool:
    """Whether a primitive of one of these names occurs anywhere in a jaxpr."""
    return any(equation.primitive.name in names for equation in all_equations(jaxpr))
