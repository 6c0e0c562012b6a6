"""Flat lists, taken apart and put together again: consecutive groups, or by a flag for each element."""

from collections.abc import Iterable, Sequence
from typing import Any


def split(values: Sequence[Any], *sizes: int) -> list[list[Any]]:
    """Consecutive groups of these sizes, and a last group of what is left."""
    groups, start = [], 0
    for size in sizes:
        groups.append(list(values[start : start + size]))
        start += size
    return [*groups, list(values[start:])]


def partition(values: Iterable[Any], flags: Iterable[bool]) -> tuple[list[Any], list[Any]]:
    """The values whose flag is set, and the others."""
    chosen: list[Any] = []
    others: list[Any] = []
    for value, flag in zip(values, flags, strict=True):
        (chosen if flag else others).append(value)
    return chosen, others


def merge(flags: Iterable[bool], chosen: Iterable[Any], others: Iterable[Any] | None = None) -> list[Any]:
    """The inverse of `partition`; without `others`, None stands where the flag is not set.

    Raises:
        ValueError: there are more or fewer values than flags that ask for one.
    """
    sources = {True: iter(chosen), False: None if others is None else iter(others)}
    merged = []
    for flag in map(bool, flags):
        source = sources[flag]
        value = None if source is None else next(source, _MISSING)
        if value is _MISSING:
            raise ValueError("merge: fewer values than flags")
        merged.append(value)
    if any(next(source, _MISSING) is not _MISSING for source in sources.values() if source is not None):
        raise ValueError("merge: more values than flags")
    return merged


def select(values: Iterable[Any], flags: Iterable[bool]) -> list[Any]:
    """The values whose flag is set."""
    return [value for value, flag in zip(values, flags, strict=True) if flag]


def present(values: Iterable[Any]) -> list[Any]:
    """The values that are not None."""
    return [value for value in values if value is not None]


def pairs(*groups: tuple[Iterable[Any], Iterable[Any]]) -> list[tuple[Any, Any]]:
    """Pairs (variable, value) of groups (variables, values)."""
    return [pair for variables, values in groups for pair in zip(variables, values, strict=True)]


_MISSING = object()
