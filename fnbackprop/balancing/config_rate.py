"""The learning rate among the options of an experiment: a number in its config that is called so."""

import dataclasses
from typing import Any

NAMES = ("learning_rate", "lr", "rate", "step_size")


def find_rate(config: Any) -> tuple[tuple[str, ...], float] | None:
    """(the names of the fields that lead to the learning rate, its value); None if there is none, or more than one.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     learning_rate: float = 0.1
    >>> find_rate(Config())
    (('learning_rate',), 0.1)
    """
    for name in NAMES:
        found = [(path, value) for path, value in _numbers(config) if path[-1] == name]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def with_rate(config: Any, path: tuple[str, ...], value: float) -> Any:
    """The config with another learning rate."""
    name, *rest = path
    inner = with_rate(getattr(config, name), tuple(rest), value) if rest else value
    return dataclasses.replace(config, **{name: inner})


def _numbers(config: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], float]]:
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return []
    found: list[tuple[tuple[str, ...], float]] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float):
            found.append(((*path, field.name), value))
        else:
            found += _numbers(value, (*path, field.name))
    return found
