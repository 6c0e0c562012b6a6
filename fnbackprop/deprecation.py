"""Public names and parameters on their way out: for one meso version they work and warn, then they are gone.

A name of `fnbackprop` that has another now gets a line in `RENAMED`; a parameter, `@renamed_parameters`.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Renamed(NamedTuple):
    """What takes the place of an old name, the version that renamed it, and the one in which the old name is gone."""

    new: str
    since: str
    gone_in: str


RENAMED: dict[str, Renamed] = {}  # by old name, those of `fnbackprop` itself


def current_name(old: str) -> str:
    """The name that took the place of a public name, with a warning to the one who uses the old."""
    _warn(f"fnbackprop.{old}", f"fnbackprop.{RENAMED[old].new}", RENAMED[old], stacklevel=4)
    return RENAMED[old].new


def renamed_parameters(**renamed: Renamed) -> Callable[[Function], Function]:
    """A decorator for a function whose keywords were renamed: the old ones work, and warn.

    Args:
        renamed: by old keyword, what it is now.
    Returns:
        The decorator. The function raises TypeError where both the old and the new keyword are given.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def taking_old(*args: Any, **kwargs: Any) -> Any:
            for old in renamed.keys() & kwargs.keys():
                new = renamed[old].new
                if new in kwargs:
                    raise TypeError(f"{function.__name__} got both {new!r} and {old!r}, its name before.")
                _warn(f"{function.__name__}({old}=)", f"{new}=", renamed[old], stacklevel=3)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return taking_old  # type: ignore[return-value]

    return decorate


def _warn(old: str, new: str, renamed: Renamed, stacklevel: int) -> None:
    message = f"{old} is {new} since version {renamed.since}; the old name is gone in {renamed.gone_in}."
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
