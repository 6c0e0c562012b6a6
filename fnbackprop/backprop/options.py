"""The options that every transform takes beyond JAX's: written once in `Engine`, and spelled out in each signature."""

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import TypedDict, TypeVar

from .engine import Engine

Transform = TypeVar("Transform", bound=Callable)
WIDTH = 110  # of a docstring's lines


class Options(TypedDict, total=False):
    """For type checkers: the fields of `Engine` that users give, by keyword."""

    safe_select: bool
    hoist: bool | None
    budget: float | None
    checkpoints: int
    eager: bool
    foreign: bool
    fuse: bool


def takes_options(fun: Transform, but: str = "") -> Transform:
    """Show the options in the signature of a function that takes `**options: Unpack[Options]`, and describe them where
    its docstring says "options:". One that the function has as a parameter of its own is left out, and so is `but`."""
    signature = inspect.signature(fun)
    *others, last = signature.parameters.values()
    assert last.kind is last.VAR_KEYWORD, fun
    own = {but, *(parameter.name for parameter in others)}
    spelled = [parameter for parameter in _parameters() if parameter.name not in own]
    fun.__signature__ = signature.replace(parameters=[*others, *spelled])
    fun.__doc__ = _described(fun.__doc__ or "", [parameter.name for parameter in spelled])
    return fun


def _parameters() -> list[inspect.Parameter]:
    """The options as keyword-only parameters, with their types and defaults."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Engine, name), annotation=annotation)
        for name, annotation in Options.__annotations__.items()
    ]


def _described(docstring: str, names: list[str]) -> str:
    """The docstring with a paragraph for each option in the place of the one that begins with "options:"."""

    def paragraphs(found: re.Match) -> str:
        indent, known = found[1], descriptions()
        return "".join(
            textwrap.fill(f"{name}: {known[name]}", WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ")
            + "\n"
            for name in names
        )

    return re.sub(r"^( +)options: .*\n(?:\1 +.*\n)*", paragraphs, docstring, count=1, flags=re.MULTILINE)


def descriptions() -> dict[str, str]:
    """What `Engine` says of each of its fields."""
    parts = re.split(r"^(\w+): ", inspect.getdoc(Engine) or "", flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
