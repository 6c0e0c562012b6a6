"""The function that a library wraps: with `eqx.filter_custom_vjp`, `nn.custom_vjp` or `custom_jvp.defjvps`, what JAX
knows as the user's function is the library's, which calls that of the user."""

import contextlib
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from .avals import cotangent_aval, operand_avals, output_avals
from .custom import custom_jvp_jaxpr, custom_vjp_of_equation, function_source, rule_source
from .evaluate import source_line, source_lines, trace_flat
from .graph import all_equations, descendants, live
from .lists import split
from .primitives import Trait, has
from .types import ClosedJaxpr, Equation, open_jaxpr
from .views import Call

JAX = f"{Path(jax.__file__).parent}/"
STANDARD = sysconfig.get_path("stdlib")
INSTALLED = ("site-packages", "dist-packages")


def library_of(place: str) -> str:
    """The folder of the library that a "file:line" belongs to; empty for a file that isn't of an installed library."""
    if place.startswith(JAX):
        return JAX
    parts = Path(place).parts
    at = next((i for i, part in enumerate(parts) if part in INSTALLED), None)
    return "" if at is None or at + 2 >= len(parts) else f"{Path(*parts[: at + 2])}/"


def wrapped_function(place: str, equations: Iterable[Equation]) -> tuple[str, str] | None:
    """The name and "file:line" of what the function at `place` calls, by the lines that these equations come from: the
    first that stands outside its library. None if `place` is of no library, or nothing outside is called."""
    library = library_of(place)
    for equation in equations if library else ():
        inner, found = [], False
        for frame in _frames(equation):  # the innermost first
            if found := f"{frame.file_name}:{frame.function_start_line}" == place:
                break
            inner.append(frame)
        outside = [f for f in inner if not f.file_name.startswith((library, JAX)) and not _is_standard(f.file_name)]
        if found and outside:
            function = outside[-1]
            return function.function_name.rpartition(".")[2], f"{function.file_name}:{function.function_start_line}"
    return None


def users_function(equation: Equation) -> tuple[str, str]:
    """The name and "file:line" of the function that a custom rule belongs to."""
    name, place = function_source(equation)
    return _wrapped_by(equation, place) or (name, place)


def called_at(equation: Equation) -> str:
    """As `source_line`; of a function with a custom rule that a library calls for the user, the line outside it."""
    own = source_line(equation)
    library = library_of(own) if has(equation, Trait.CUSTOM_RULE) else ""
    if not library or users_function(equation)[1].startswith(library):
        return own
    return next((line for line in source_lines(equation) if not line.startswith(library)), own)


def custom_rule_place(equation: Equation, active: Sequence[bool], position: int) -> str:
    """The "file:line" of a custom rule; of one that a library wraps, that of what it calls for the operand at
    `position`, one of those that are active."""
    place = rule_source(equation)
    if not library_of(place):
        return place
    try:
        found = wrapped_function(place, _rule_equations(equation, active, position))
    except Exception:  # the user's rule may refuse to be traced without a gradient around it
        return place
    return found[1] if found else place


def _rule_equations(equation: Equation, active: Sequence[bool], position: int) -> Sequence[Equation]:
    """The equations of a custom rule that the cotangent of the operand at `position` comes from."""
    if "jvp_jaxpr_fun" in equation.params:
        rule = custom_jvp_jaxpr(equation, active)
        jaxpr = rule.closed.jaxpr
        tangent = jaxpr.invars[len(jaxpr.invars) - len(rule.tangents) + rule.tangents.index(position)]
        moving = descendants(jaxpr.eqns, [tangent])
        return [one for one in live(jaxpr.eqns, jaxpr.outvars) if any(v in moving for v in one.outvars)]
    rule, avals = custom_vjp_of_equation(equation), output_avals(equation)

    def pull(*leaves: Any) -> Any:
        operands, cts = split(leaves, len(equation.invars))
        return rule.backward(rule.forward(operands, active)[1], cts, avals)[position]

    jaxpr = trace_flat(pull, [*operand_avals(equation), *map(cotangent_aval, avals)]).closed.jaxpr
    return live(jaxpr.eqns, jaxpr.outvars)


def trace_wrapped_rules(closed: ClosedJaxpr) -> None:
    """Trace the JVPs of a program that a library wraps. JAX keeps what was traced first: later, in an evaluation of the
    program, all of it would come from the line of the call, and not from the lines of the rule."""
    for equation in all_equations(closed):
        if "jvp_jaxpr_fun" in equation.params and library_of(rule_source(equation)):
            with contextlib.suppress(Exception):  # what the user's rule raises is told where it is needed
                custom_jvp_jaxpr(equation, [True] * len(equation.invars))


def _wrapped_by(equation: Equation, place: str) -> tuple[str, str] | None:
    return wrapped_function(place, open_jaxpr(Call.of(equation).body).eqns)


def _frames(equation: Equation) -> list:
    traceback = equation.source_info.traceback
    return [] if traceback is None else traceback.frames


def _is_standard(file: str) -> bool:
    return file.startswith((STANDARD, "<")) and not any(part in file for part in INSTALLED)
