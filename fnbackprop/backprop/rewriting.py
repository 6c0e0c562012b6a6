"""What changes a traced program before it is planned, where `fuse=True` asks for it. Layers above register it."""

from collections.abc import Callable
from typing import Any

_rewrites: list[Callable[[Any], tuple[Any, list[Any]]]] = []


def register_rewrite(rewrite: Callable[[Any], tuple[Any, list[Any]]]) -> None:
    """Register a function from a closed jaxpr to one that computes the same, and what is to be said of it."""
    _rewrites.append(rewrite)


def rewrite(closed: Any) -> tuple[Any, list[Any]]:
    """The program as it is to run, and what was said of it."""
    said: list[Any] = []
    for change in _rewrites:
        closed, more = change(closed)
        said += more
    return closed, said
