"""Functions of JAX that are no primitives and yet have a rule of their own, because their equations have no slope.

Such a function stands in a jaxpr as a `jit` equation, and is known by its name and by the file of JAX that it is in.
"""

from collections.abc import Callable
from typing import Any

from ...backprop.registry import Structured
from ...jaxprs.custom import function_source
from ...jaxprs.types import Equation

Rule = Callable[..., Structured | None]

_rules: dict[tuple[str, str], Rule] = {}


def function_rule(name: str, file: str) -> Callable[[Rule], Rule]:
    """Register the structured rule of a jitted function of JAX, in a file such as "jax/_src/scipy/linalg.py".

    The rule is called as that of a primitive, and returns None for calls that it does not serve: these are walked."""

    def register(rule: Rule) -> Rule:
        _rules[name, file] = rule
        return rule

    return register


def function_vjp(engine: Any, equation: Equation, active: tuple, wanted: tuple) -> Structured | None:
    """What the rule of the function that a `jit` equation calls returns; None if the equation is to be walked."""
    called = equation.params["name"]
    if not any(called == name for name, _ in _rules):
        return None
    name, place = function_source(equation)
    path = place.rpartition(":")[0].replace("\\", "/")
    found = (rule for (known, file), rule in _rules.items() if known == name and path.endswith(file))
    return next((served for rule in found if (served := rule(engine, equation, active, wanted)) is not None), None)
