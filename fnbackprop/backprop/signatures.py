"""The signature of a rule: the names of the primitive's operands and outputs, by which the rule's parameters say what
it reads. How one is written is told in `registry.py`."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..jaxprs.avals import as_jax_array

Where = int | slice  # the position of a name among the operands or outputs; a slice for a starred one


class Argument(NamedTuple):
    """Where one argument of a rule comes from."""

    kind: str  # "value", "aval", "cotangent", "active" or "wanted"
    side: str = ""  # of the equation, for a value or an aval: "invars" or "outvars"
    where: Where | None = None  # on that side; of a cotangent, among the outputs


@dataclass(frozen=True, eq=False)
class Rule:
    """A hand-written VJP: the function, what it reads, and which operand's cotangent it returns (None: all).

    call: what the engine calls with the arguments of `reads`, all arrays: the function itself, or what adapts it."""

    function: Callable
    call: Callable
    wrt: str | None
    target: Where | None  # the position of `wrt` among the operands
    reads: dict[str, Argument]
    params: tuple[str, ...]
    takes_all_params: bool
    is_derivative: bool = False  # whether it was written as the derivative of an elementwise primitive
    given: str | None = None  # the parameter of the equation that must not be None for the rule to serve it

    @property
    def name(self) -> str:
        return self.function.__name__

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        return tuple(self.reads.values())

    @cached_property
    def saved(self) -> tuple[Argument, ...]:
        """The arguments that are values, which must be saved."""
        return tuple(argument for argument in self.reads.values() if argument.kind == "value")


Adapt = Callable[[Callable, Sequence[Argument]], Callable]  # a function and what it is given -> a function of arrays


def parse(function: Callable, signature: str, wrt: str | None, adapt: Adapt | None, given: str | None = None) -> Rule:
    operands, outputs = (positions(side) for side in signature.split("->"))
    known = _readable(operands, outputs)
    reads, params, takes_all = {}, [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            params.append(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
        elif parameter.name in known:
            reads[parameter.name] = known[parameter.name]
        else:
            raise TypeError(
                f"the VJP rule {function.__name__} has a parameter {parameter.name!r} that its signature "
                f"{signature!r} does not name. It may read {', '.join(sorted(known))}; "
                "parameters of the equation are keyword-only (after a *)."
            )
    if wrt is not None and wrt not in operands:
        raise TypeError(f"the VJP rule {function.__name__} is for wrt={wrt!r}, no operand of {signature!r}.")
    call = function if adapt is None else adapt(function, list(reads.values()))
    target = None if wrt is None else operands[wrt]
    return Rule(function, call, wrt, target, reads, tuple(params), takes_all, given=given)


def _readable(operands: dict[str, Where], outputs: dict[str, Where]) -> dict[str, Argument]:
    """All that a rule of this signature may read; where a name means two things, its value goes before."""
    found = {name: Argument(name) for name in ("active", "wanted")}
    found |= {f"d{name}": Argument("cotangent", where=where) for name, where in outputs.items()}
    sides = [("outvars", outputs), ("invars", operands)]
    found |= {f"{name}_aval": Argument("aval", side, where) for side, names in sides for name, where in names.items()}
    return found | {name: Argument("value", side, where) for side, names in sides for name, where in names.items()}


def positions(side: str) -> dict[str, Where]:
    """Where each name of one side of a signature lies: a position, or a slice for the starred one."""
    names = [name.strip() for name in side.split(",") if name.strip()]
    starred = [name for name in names if name.startswith("*")]
    if len(starred) > 1 or (starred and not names[-1].startswith("*")):
        raise TypeError(f"a signature's starred name comes last and once, but got {side.strip()!r}.")
    return {name.removeprefix("*"): slice(i, None) if name.startswith("*") else i for i, name in enumerate(names)}


def of_jax_arrays(function: Callable, places: Sequence[Argument]) -> Callable:
    """A rule that is given literals, which the engine reads as NumPy arrays, as jax arrays."""
    values = [place.kind == "value" for place in places]

    def on_jax_arrays(*arguments: Any, **params: Any) -> Any:
        pairs = zip(arguments, values, strict=True)
        return function(*[_as_jax_arrays(x) if is_value else x for x, is_value in pairs], **params)

    return on_jax_arrays if any(values) else function


def _as_jax_arrays(x: Any) -> Any:
    return tuple(map(_as_jax_arrays, x)) if isinstance(x, tuple) else as_jax_array(x)
