"""What is to be said of a plan, kept with it.

A plan is made once and found in a cache for equal calls. What was noted while it was made, a warning that it holds a
loop without a slope, say, is noted again where it is found.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

Note = tuple[Callable[..., None], Any]  # what says it, and of what

_collected: list[dict[Note, None]] = []  # the notes of the plans that are being made, the innermost last


def note(say: Callable[[Any], None], of: Any) -> None:
    """Call `say(of)`; while a plan that will be kept is made, once that is used."""
    if _collected:
        _collected[-1][say, of] = None
    else:
        say(of)


def cached_plan(function: Callable) -> Callable:
    """`lru_cache` for what plans a part of a backward pass: at each use, its notes are made."""

    @lru_cache(maxsize=4096)
    def kept(*args: Any) -> tuple[Any, tuple[Note, ...]]:
        _collected.append({})
        try:
            return function(*args), tuple(_collected[-1])
        finally:
            _collected.pop()

    @wraps(function)
    def planned(*args: Any) -> Any:
        found, notes = kept(*args)
        for say, of in notes:
            note(say, of)
        return found

    planned.cache_clear, planned.cache_info = kept.cache_clear, kept.cache_info  # type: ignore[attr-defined]
    return planned
